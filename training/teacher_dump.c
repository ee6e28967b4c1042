/* Teacher: reads one sentence per line and writes what flite would speak.
 *
 *   teacher_dump slt|rms|awb PCM_OUT|- [vary] < lines.txt > dump.txt
 *
 * With `vary` a line begins with three numbers and a space each: factor of the pitch, factor of its
 * spread around the sentence's mean (in logarithms), factor of all durations.
 * One output line per input line, tab separated:
 *   number of 5 ms frames
 *   segments "phone:end_ms:token_start:token_end:position" joined by spaces; token_* are byte
 *       offsets into the line (-1 for pauses), position is the segment's share 0..999 of its token
 *   F0 of every 5 ms frame in 1/10 Hz, 0 where unvoiced, joined by spaces
 *   phase within the pitch period at the end of every 5 ms frame in 1/1000, -1 where unvoiced
 *   number of samples appended to PCM_OUT (16 kHz, int16), 0 without PCM_OUT
 * Without PCM_OUT the vocoder is skipped (its entry point is interposed), which is most of the cost.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <flite/flite.h>
#include <flite/cst_cg.h>

cst_voice *register_cmu_us_slt(const char *);
cst_voice *register_cmu_us_rms(const char *);
cst_voice *register_cmu_us_awb(const char *);

static int want_wave;
static double pitch = 1, spread = 1, stretch = 1;
static float *f0, *phase;
static int n_f0, cap_f0;

/* Where the vocoder stands in its pitch cycle at the end of every frame: 0 at a pulse, up to 1,
 * -1 while it makes noise. It restarts at each voiced stretch, whose first frame is still noise,
 * and within a frame the period moves linearly. */
static void glottal_phase(void) {
    double last = 0, count = 0;
    for (int i = 0; i < n_f0; i++) {
        double period = f0[i] > 0 ? 16000.0 / f0[i] : 0;
        if (last > 0 && period > 0) {
            double step = (period - last) / 80;
            for (int j = 0; j < 80; j++, last += step)
                if ((count += 1) >= last) count -= last;
            phase[i] = fmin(fmax(count / period, 0), 0.999);
        } else {
            count = period;
            phase[i] = -1;
        }
        last = period;
    }
}

typedef cst_wave *(*resynth)(const cst_track *, const cst_track *, cst_cg_db *,
                             cst_audio_streaming_info *, int);

cst_wave *mlsa_resynthesis(const cst_track *t, const cst_track *str, cst_cg_db *db,
                           cst_audio_streaming_info *asi, int mode) {
    if (t->num_frames > cap_f0) {
        cap_f0 = 2 * t->num_frames;
        f0 = realloc(f0, sizeof(float) * cap_f0);
        phase = realloc(phase, sizeof(float) * cap_f0);
    }
    n_f0 = t->num_frames;
    double sum = 0, voiced = 0;
    for (int i = 0; i < n_f0; i++)
        if (t->frames[i][0] > 0) sum += log(t->frames[i][0]), voiced++;
    double mean = voiced ? sum / voiced : 0;
    for (int i = 0; i < n_f0; i++) {
        float *hz = &((cst_track *)t)->frames[i][0];
        if (pitch <= 0)
            *hz = 0; /* a whisper */
        else if (*hz > 0 && (pitch != 1 || spread != 1))
            *hz = exp(mean + log(pitch) + spread * (log(*hz) - mean));
        f0[i] = *hz;
    }
    glottal_phase();
    if (want_wave) {
        resynth real = (resynth)dlsym(RTLD_NEXT, "mlsa_resynthesis");
        return real(t, str, db, asi, mode);
    }
    cst_wave *w = new_wave();
    cst_wave_resize(w, 1, 1);
    w->sample_rate = 16000;
    return w;
}

int main(int argc, char **argv) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    FILE *pcm = NULL;
    if (argc < 3) return 2;
    flite_init();
    cst_voice *v = !strcmp(argv[1], "rms")   ? register_cmu_us_rms(NULL)
                   : !strcmp(argv[1], "awb") ? register_cmu_us_awb(NULL)
                                             : register_cmu_us_slt(NULL);
    int vary = argc > 3;
    if (strcmp(argv[2], "-")) {
        pcm = fopen(argv[2], "wb");
        want_wave = 1;
    }
    while ((len = getline(&line, &cap, stdin)) > 0) {
        if (line[len - 1] == '\n') line[--len] = 0;
        n_f0 = 0;
        char *text = line;
        if (vary) {
            pitch = strtod(text, &text);
            spread = strtod(text, &text);
            stretch = strtod(text, &text);
            text++;
            feat_set_float(v->features, "duration_stretch", stretch);
        }
        cst_utterance *u = flite_synth_text(text, v);
        printf("%d\t", n_f0);
        const char *sep = "";
        for (cst_item *tok = NULL, *s = relation_head(utt_relation(u, "Segment")); s; s = item_next(s)) {
            cst_item *word = item_parent(item_parent(item_as(s, "SylStructure")));
            tok = word ? item_parent(item_as(word, "Token")) : NULL;
            int end = tok ? item_feat_int(tok, "file_pos") - 1 : -1;
            int start = tok && item_prev(tok) ? item_feat_int(item_prev(tok), "file_pos") - 1 : 0;
            int n = 0, at = 0;
            if (tok)
                for (cst_item *w = item_daughter(tok); w; w = item_next(w))
                    for (cst_item *syl = item_daughter(item_as(w, "SylStructure")); syl; syl = item_next(syl))
                        for (cst_item *q = item_daughter(syl); q; q = item_next(q), n++)
                            if (item_equal(q, s)) at = n;
            printf("%s%s:%d:%d:%d:%d", sep, item_feat_string(s, "name"),
                   (int)lrintf(1000 * item_feat_float(s, "end")), tok ? start : -1, end,
                   n ? (2 * at + 1) * 500 / n : 0);
            sep = " ";
        }
        putchar('\t');
        for (int i = 0; i < n_f0; i++) printf(i ? " %d" : "%d", (int)lrintf(10 * f0[i]));
        putchar('\t');
        for (int i = 0; i < n_f0; i++) printf(i ? " %d" : "%d", phase[i] < 0 ? -1 : (int)(1000 * phase[i]));
        int samples = 0;
        if (pcm) {
            cst_wave *w = utt_wave(u);
            samples = w->num_samples;
            fwrite(w->samples, 2, samples, pcm);
        }
        printf("\t%d\n", samples);
        delete_utterance(u);
    }
    if (pcm) fclose(pcm);
    return 0;
}
