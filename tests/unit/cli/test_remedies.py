"""What the CLI says about a reason and what the page says are about the same reasons, in the same sections."""

import re
from pathlib import Path

from finetune_api.status import Reason
from finetune_cli.remedies import PAGE, REMEDIES, remedy_of

ROOT = Path(__file__).resolve().parents[3]
HEALTHY = {
    "Accepted",
    "Preflight",
    "Running",
    "NotSuspended",
    "Suspended",
    "Succeeded",
    "NotFinished",
    "Failed",
    "Improved",
    "NotImproved",
    "WithinUncertainty",
}


def reasons_on_the_page() -> dict[str, str]:
    """Section of each reason in the first column of the page's tables."""
    found = {}
    for section in ("Pending", "Failed"):
        part = (ROOT / PAGE).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        for cell in re.findall(r"^\| (`.*?) \|", part, re.MULTILINE):
            found |= dict.fromkeys(re.findall(r"`(\w+)`", cell), section.lower())
    return found


def test_every_reason_that_needs_one_has_a_remedy_here_and_on_the_page() -> None:
    sections = {reason.value: remedy.section for reason, remedy in REMEDIES.items()}
    assert sections == reasons_on_the_page()
    assert set(sections) == {reason.value for reason in Reason} - HEALTHY


def test_a_reason_of_a_newer_operator_has_none() -> None:
    assert remedy_of("SomethingNew") is None
