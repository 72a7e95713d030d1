"""The report as one HTML page without scripts: the result in words, plots, a table of all trials. Pure."""

import struct
from base64 import b64encode
from dataclasses import dataclass
from html import escape

from finetune_api.run import JobIdentity
from finetune_api.search_history import SearchedTrial, SearchHistory
from finetune_trainer.reporting.recorder import duration
from finetune_trainer.summary.plots.figure import DOTS_PER_PIXEL
from finetune_trainer.summary.values import clipped, is_number, short_names, text_of
from finetune_trainer.summary.words import measured, summary

STYLE = """
body {
  font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
}
h1 { font-size: 1.6rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
p { max-width: 50rem; margin: .4rem 0; overflow-wrap: anywhere; }
.note { color: #666; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; margin: .5rem 0; }
th, td {
  text-align: left; vertical-align: top; white-space: nowrap;
  padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #e4e4e4;
}
th { color: #666; font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.best td { background: #e9f4ec; font-weight: 600; }
.Failed td { color: #a33; } .Pruned td, .Stopped td { color: #777; }
.reason { white-space: normal; min-width: 18rem; }
img { display: block; margin: .5rem 0; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Picture:
    """A plot of the report."""

    name: str
    title: str
    explanation: str
    png: bytes | None
    absent: str = ""
    """Why there is no picture."""


def page(history: SearchHistory, job: JobIdentity, pictures: list[Picture], model: str = "") -> str:
    """The whole page; `model` is one more sentence of the result. Every text of a user is escaped."""
    title = escape(f"Hyperparameter search {job.name}")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}</style></head><body>",
            f"<h1>{title}</h1>",
            *(f"<p>{escape(sentence)}</p>" for sentence in (*summary(history), model) if sentence),
            *_best_values(history),
            *(line for picture in pictures for line in _figure(picture)),
            *_trials(history),
            "</body></html>",
            "",
        ]
    )


def _best_values(history: SearchHistory) -> list[str]:
    best = history.best_trial
    if best is None or not best.parameters:
        return []
    rows = [
        f"<tr><td>{escape(path)}</td><td>{escape(text_of(best.parameters[path]))}</td></tr>"
        for path in sorted(best.parameters)
    ]
    return [
        f"<h2>Values of the best trial, {best.number}</h2>",
        '<div class="wide"><table>',
        *rows,
        "</table></div>",
    ]


def _figure(picture: Picture) -> list[str]:
    heading = f"<h2>{escape(picture.title)}</h2>"
    if picture.png is None:
        return [heading, f'<p class="note">{escape(_sentence(picture.absent))}</p>']
    width = struct.unpack(">I", picture.png[16:20])[0] / DOTS_PER_PIXEL
    source = f"data:image/png;base64,{b64encode(picture.png).decode()}"
    return [
        heading,
        f'<p class="note">{escape(picture.explanation)}</p>',
        f'<div class="wide"><img src="{source}" width="{width:.0f}" alt="{escape(picture.title)}"></div>',
    ]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _trials(history: SearchHistory) -> list[str]:
    paths = list(dict.fromkeys(path for trial in history.trials for path in trial.parameters))
    names = short_names(paths)
    reasons = any(trial.message for trial in history.trials)
    head = [
        '<th class="number">trial</th><th>state</th>',
        f'<th class="number">{escape(history.metric)}</th>',
        *(f'<th title="{escape(path)}">{escape(names[path])}</th>' for path in paths),
        '<th class="number">training time</th><th>FineTuneJob</th>',
        "<th>why</th>" if reasons else "",
    ]
    rows = (
        _row(trial, paths, best=trial.number == history.best, reasons=reasons) for trial in history.trials
    )
    table = ['<div class="wide"><table>', f"<tr>{''.join(head)}</tr>", *rows, "</table></div>"]
    return ["<h2>All trials</h2>", *table]


def _row(trial: SearchedTrial, paths: list[str], *, best: bool, reasons: bool) -> str:
    cells = [
        f'<td class="number">{"★ " if best else ""}{trial.number}</td><td>{escape(trial.state)}</td>',
        f'<td class="number">{measured(trial.value)}</td>',
        *(_cell(trial.parameters[path]) if path in trial.parameters else "<td>–</td>" for path in paths),
        f'<td class="number">{duration(trial.seconds)}</td><td>{escape(trial.name)}</td>',
        f'<td class="reason">{escape(trial.message)}</td>' if reasons else "",
    ]
    return f'<tr class="{"best" if best else trial.state}">{"".join(cells)}</tr>'


def _cell(value: object) -> str:
    text = text_of(value)
    title = f' title="{escape(text)}"' if len(text) > _LONGEST_VALUE else ""
    kind = ' class="number"' if is_number(value) else ""
    return f"<td{kind}{title}>{escape(clipped(text, _LONGEST_VALUE))}</td>"
