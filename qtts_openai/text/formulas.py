# ruff: noqa: RUF001
"""LaTeX, as language models write formulas, in the signs that people write."""

import re

# Each may hold no second opening of its kind, so that one without an end costs little.
_FORMULA = re.compile(
    r"\$\$((?:(?!\$\$).)+)\$\$|\\\[((?:(?!\\\[).)+?)\\\]|\\\(((?:(?!\\\().)+?)\\\)"
    r"|\$(?=[^\s$])(?=[a-zA-Z]\$|[^$\n]*[\\^_{}=])([^$\n]*)(?<=\S)\$(?![\d$])",
    re.S,
)
# `\\(about two minutes\\)`: brackets that Markdown escapes.
_PROSE = re.compile(r"[^\\^_{}=]*[^\W\d_]{3}[^\\^_{}=]*")
_FONT = re.compile(r"\\(?:text|math|operatorname|boxed|vec|hat|bar|over|under)\w*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt\{([^{}]*)\}")
_RAISED = re.compile(r"\^(?:\{([^{}]*)\}|(-?\w))")
_LOWERED = re.compile(r"_(?:\{([^{}]*)\}|(\w))")
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)")
_SIGNS = {
    name: sign
    for sign, names in {
        "×": "times cdot",
        "÷": "div",
        "±": "pm",
        "≤": "leq le",
        "≥": "geq ge",
        "≠": "neq ne",
        "≈": "approx",
        "∞": "infty",
        "π": "pi",
        "→": "to rightarrow",
        "∫": "int",
        "∑": "sum",
        "∈": "in",
        "∪": "cup",
        "∩": "cap",
        "°": "circ",
        "…": "cdots ldots dots",
        "": "left right big Big displaystyle limits",
        "%": "%",
        "$": "$",
        "&": "&",
        "#": "#",
    }.items()
    for name in names.split()
}
_SUPERSCRIPTS = str.maketrans("+-0123456789n", "⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ")
MAX_DEPTH = 4


def plain_formulas(text: str) -> str:
    r"""`$\frac{a}{b} = x^2$` -> `a ÷ b = x²`; `$5 and $10` is money."""
    if "$" not in text and "\\" not in text:
        return text
    return _FORMULA.sub(_read, text)


def _read(match: re.Match[str]) -> str:
    formula = next(filter(None, match.groups()))
    return match[0] if match[0][0] == "\\" and _PROSE.fullmatch(formula) else _plain(formula)


def _plain(formula: str) -> str:
    for _ in range(MAX_DEPTH):
        before = formula
        formula = _FONT.sub(r"\1", formula)
        formula = _RAISED.sub(_raised, formula)
        formula = _LOWERED.sub(lambda match: f" {match[1] or match[2]}", formula)
        formula = _ROOT.sub(r"√\1", formula)
        formula = _FRACTION.sub(_fraction, formula)
        if formula == before:
            break
    formula = _COMMAND.sub(_command, formula)
    return re.sub(r"[{}&\s]+", " ", formula).replace("-", "−").strip()


def _raised(match: re.Match[str]) -> str:
    raised = (match[1] or match[2] or "").strip()
    if raised == r"\circ":
        return "°"
    plain = re.fullmatch(r"[-+]?\d+|n", raised)
    return raised.translate(_SUPERSCRIPTS) if plain else f"^({raised})"


def _fraction(match: re.Match[str]) -> str:
    above, below = match.groups()
    return f"{above}/{below}" if (above + below).isdigit() else f" {above} ÷ {below} "


def _command(match: re.Match[str]) -> str:
    name = match[1]
    return f" {_SIGNS.get(name, name if name.isalpha() else '')} "
