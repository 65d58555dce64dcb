"""Findings and impression out of the text of a radiology report."""

import re

__all__ = ["SECTIONS", "sections_of"]

# What a heading is called -> the section it begins.
SECTIONS = {
    "findings": ("FINDINGS", "FINDING", "FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION"),
    "impression": ("IMPRESSION", "IMPRESSIONS", "CONCLUSION", "CONCLUSIONS", "SUMMARY"),
}
# A heading stands at the beginning of a line, in capitals, before a colon.
_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z0-9 ,/()&.\-]{1,60}?)[ \t]*:", re.MULTILINE)


def sections_of(report, wanted=("findings", "impression")):
    r"""Return the text of some sections of a report, in the order asked for, spaces made single.

    Parameters
    ----------
    report : str
    wanted : sequence of {"findings", "impression"}

    Returns
    -------
    str
        Paragraphs divided by an empty line. A report without any heading gives its last paragraph,
        which is where such reports describe the film; one with other headings only gives "".

    Examples
    --------
    >>> from skmoecbm.datasets._report_sections import sections_of
    >>> sections_of("INDICATION: cough.\nFINDINGS: Clear\n lungs.\nIMPRESSION:  Normal.")
    'Clear lungs.\n\nNormal.'
    """
    headings = list(_HEADING.finditer(report))
    if not headings:
        paragraphs = [text for text in re.split(r"\n\s*\n", report) if text.strip()]
        return " ".join(paragraphs[-1].split()) if paragraphs else ""
    ends = [*(heading.start() for heading in headings[1:]), len(report)]
    found = {name: [] for name in wanted}
    for heading, end in zip(headings, ends, strict=True):
        for name in wanted:
            if " ".join(heading[1].split()) in SECTIONS[name]:
                found[name].append(" ".join(report[heading.end() : end].split()))
    texts = [text for name in wanted for text in found[name] if text]
    return "\n\n".join(texts)
