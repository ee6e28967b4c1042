"""What a named voice may be asked for: a closed vocabulary of styles, and mixes with another."""

from training.voice_space import SPEAKERS, WHISPER, Voice
from training.wording import dressed, pick, some_of

STYLES = {
    "slow": (
        "slowly|slow|at a slow pace|in a slow voice|unhurried|take your time|calmly and slowly"
        "|at a relaxed pace|slower|very slowly"
    ),
    "fast": (
        "fast|quickly|at a fast pace|in a hurry|rapidly|hurried|speedily|with urgency|faster|quick"
        "|very fast"
    ),
    "high": (
        "in a high voice|high pitched|with a high pitch|higher|in a higher voice|in a high tone"
        "|in a higher pitch"
    ),
    "low": (
        "in a low voice|low pitched|with a low pitch|lower|deep|in a deep voice|in a lower tone"
        "|in a lower pitch|deeper"
    ),
    "whisper": (
        "in a whisper|whispering|whisper|whispered|very quietly, in a whisper|under your breath"
    ),
    "monotone": (
        "in a monotone|monotone|flat|without emotion|in a flat voice|like a robot|deadpan|bored"
    ),
    "lively": (
        "lively|cheerful|with enthusiasm|excited|in a lively voice|expressive|energetic|happy"
        "|with a lot of energy|cheerfully|excitedly"
    ),
}
STYLE_FRAMES = (
    "Speak {}.|Talk {}.|{}|{}.|Say it {}.|Read this {}.|Please speak {}.|Sound {}.|Be {}.|Tone: {}."
    "|Please read it {}.|Use a {} voice."
)
# Asked for by clients, and nothing that these voices could do: they are to speak as ever.
NO_STYLE = (
    "British accent|Affect: warm and sincere|Tone: professional, reassuring|Speak clearly"
    "|Pronunciation: clear and precise|Personality: friendly customer support"
    "|Voice: natural and conversational|Speak like a news anchor|Emotion: compassion|Be polite"
    "|Pauses: brief pauses between sentences|You are a helpful assistant|Sound like a storyteller"
    "|Sincerely|Speak with a slight smile|Delivery: crisp and articulate|Accent: neutral American"
    "|Pacing: steady, with natural emphasis|Read it as a bedtime story|Normal voice"
)
OPPOSITES = ({"slow", "fast"}, {"high", "low"}, {"monotone", "lively"}, {"whisper", "high"})


def styled(voice: Voice, styles) -> Voice:
    change = {"slow": ("rate", 0.78), "fast": ("rate", 1.28), "high": ("pitch", 1.22)}
    change |= {"low": ("pitch", 0.82), "monotone": ("spread", 0.2), "lively": ("spread", 1.7)}
    for style in styles:
        if style == "whisper":
            voice = voice._replace(breath=WHISPER)
        else:
            field, factor = change[style]
            voice = voice._replace(**{field: getattr(voice, field) * factor})
    return voice.clipped()


def some_styles(rng) -> tuple[list[str], str]:
    """None to two styles, and an instruction that asks for them."""
    if rng.random() < 0.3:
        asked = [pick(rng, NO_STYLE) for _ in range(rng.integers(1, 5))]
        return [], dressed(rng, pick(rng, ". |; |\n").join(asked))
    styles = some_of(rng, list(STYLES), 1 + (rng.random() < 0.3), OPPOSITES)
    words = [pick(rng, STYLES[style]) for style in styles]
    joined = pick(rng, " and |, |; ").join(words)
    asked = pick(rng, STYLE_FRAMES).format(joined)
    if rng.random() < 0.12:
        asked = f"{pick(rng, NO_STYLE)}. {asked}"
    return styles, dressed(rng, asked)


def between(voice: Voice, other: Voice, share: float) -> Voice:
    """`share` of the other's tract, tilt, breath, pitch, spread and pace; the teacher stays."""

    def mean(field: str) -> float:
        return (1 - share) * getattr(voice, field) + share * getattr(other, field)

    def geometric(field: str) -> float:
        return getattr(voice, field) ** (1 - share) * getattr(other, field) ** share

    return Voice(
        voice.teacher,
        round(mean("tract")),
        round(mean("tilt")),
        round(mean("breath")),
        geometric("pitch"),
        geometric("spread"),
        geometric("rate"),
    )


def some_mix(rng, teacher: int) -> tuple[Voice, dict[str, float]]:
    """A voice between a named one of this teacher and another one, and their weights."""
    own = [name for name, voice in SPEAKERS.items() if voice.teacher == teacher]
    name = own[rng.integers(len(own))]
    others = [other for other in SPEAKERS if other != name]
    other = others[rng.integers(len(others))]
    share = float(rng.uniform(0.1, 0.45))
    return between(SPEAKERS[name], SPEAKERS[other], share), {name: 1 - share, other: share}
