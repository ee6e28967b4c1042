#!/usr/bin/env bash
# Trains everything at once on a machine with a GPU and sixteen cores, in under four minutes:
# codec decoder, talker and speaker encoder side by side, from the shipped checkpoint.
#     OUT=folder training/gpu_train.sh CARRY MINUTES
# CARRY holds text/, labels/ and, where flite is not installed, teacher_dump with its lib/.
set -uo pipefail
cd "$(dirname "$0")"
CARRY=$(realpath "$1") MINUTES=$2
export PYTHONPATH=$PWD/..:${PYTHONPATH:-} OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
# The one try on an H100 ended with a full disk: no file may grow beyond 1 GiB, and room is shown at each stage.
ulimit -f 1048576
room() { echo "room, $1:"; df -h . "$OUT" /tmp /dev/shm | cut -c1-90; du -sk work | tail -1; }
room "at the start"
mkdir -p work && cp -r "$CARRY"/. work/
export LD_LIBRARY_PATH=$PWD/work/lib:${LD_LIBRARY_PATH:-}
python3 -m training.restore & python3 -m training.teacher --share 0 --workers 16 | tail -1; wait
room "with the teacher's readings"
run() { # NAME COMMAND...: with bfloat16, or plainly where that fails
    local name=$1; shift
    "$@" --bf16 > "$OUT/$name.log" 2>&1 || "$@" >> "$OUT/$name.log" 2>&1
}
TO_GPU="--device cuda --minutes $MINUTES"
run codec python3 -m training.codec_train $TO_GPU --batch 24 --workers 5 --rate 1.5e-3 &
run talker python3 -m training.talker_train $TO_GPU --tokens 24000 --workers 6 --rate 1.2e-3 &
python3 -m training.speaker_train $TO_GPU --batch 24 --workers 4 > "$OUT/speaker.log" 2>&1 &
wait
room "at the end"
python3 - <<'PYTHON'
import os, torch
for name in ("codec", "talker", "speaker"):
    state = torch.load(f"work/{name}.pt", map_location="cpu")
    state["model"] = {k: v.to(torch.bfloat16) for k, v in state["model"].items()}
    state.pop("optimiser", None)
    torch.save(state, os.path.join(os.environ["OUT"], f"{name}.pt"))
PYTHON
