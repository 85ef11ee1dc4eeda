"""Tables of runs, made from their records alone."""

from collections.abc import Mapping, Sequence

from smallvit.record import RunRecord
from smallvit.report.stats import Difference, differences

NO_VALUE = ""


def markdown_table(records: Mapping[str, Sequence[RunRecord]], reference: str) -> str:
    """Return a markdown table of test accuracies at the last epoch: a line a row, against the row `reference`.

    The intervals and p values are those of `smallvit.report.stats.differences`. A row without records says so.
    """
    accuracies = {label: [100 * record.test.accuracy for record in runs] for label, runs in records.items()}
    found = differences(accuracies, reference)
    lines = [
        f"| augmentation | seeds | test accuracy, % | mean | against {reference} | 95 % interval | p (Holm) | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, values in accuracies.items():
        each = ", ".join(f"{value:.2f}" for value in values) or "not run"
        mean = f"{sum(values) / len(values):.2f}" if values else NO_VALUE
        cells = [label, str(len(values)), each, mean, *_compared(found.get(label))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _compared(difference: Difference | None) -> list[str]:
    if difference is None:
        return [NO_VALUE] * 4
    verdict = "resolved" if difference.p_holm < 0.05 else "not resolved"
    interval = f"{difference.low:+.2f} to {difference.high:+.2f}"
    return [f"{difference.mean:+.2f}", interval, f"{difference.p_holm:.2g}", verdict]
