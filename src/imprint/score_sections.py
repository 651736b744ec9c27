"""What a run's report says of its score: figures, plots and mistakes, as plain values for its template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imprint.answers import Answers
from imprint.clinic import CAUSES, Clinic, Mistake
from imprint.drawing import shorten, to_svg
from imprint.metrics import calibration_error, class_scores, log_loss
from imprint.pages import page_picture
from imprint.score_plots import NUMBERED, confusion_plot, coverage_plot, reliability_plot

NEAR_SIDE = 80  # pixels
CARDS = 12  # mistakes of one cause
LISTED = 20  # mistakes without pictures
RULES = {
    "unlike": "Their three nearest training pictures are farther away than those of 199 of 200 pictures that were "
    "named rightly. What the model says of such pictures means little; if they belong here, it needs more like them.",
    "mislabelled": "The label has a probability below 1 %, and the three nearest training pictures all bear the "
    "prediction. Look: if the label is wrong, the model was right.",
    "ambiguous": "The label was the runner-up with 20 % or more, and the model hesitated as it does over 1 in 20 of "
    "the pictures that it named rightly. A person may hesitate too.",
    "fault": "None of the other rules holds. More training pictures like these are what usually helps.",
}


def percent(share: float, count: int = 0) -> str:
    r"""Write a share as a percentage, with as many digits as a count of pictures bears.

    Parameters
    ----------
    share : float
        From 0 to 1.
    count : int, default=0
        Pictures that it was measured with; 0 for none.

    Returns
    -------
    str
        With the sign.

    Examples
    --------
    >>> percent(0.99612, 3360), percent(0.985, 200)
    ('99.61\xa0%', '98.5\xa0%')
    """
    text = f"{share * 100:.{2 if count >= 1000 else 1}f}"
    if text.startswith("100") and share < 1:
        text = "99.99"  # no rounding makes a mistake vanish
    return f"{text}\u00a0%"


def score_section(answers: Answers, settled_here: bool) -> dict[str, Any]:
    """Tell how good the model is, class by class, and how far its confidence can be trusted.

    Parameters
    ----------
    answers : Answers
        To the validation pictures.
    settled_here : bool
        Whether confidence was fitted, and the limit of unsure chosen, on these same pictures.

    Returns
    -------
    dict
        Words, plots as SVG and rows.

    Examples
    --------
    >>> from imprint.answers import answers_to
    >>> sure, flagged = np.eye(2, dtype=np.float32), np.array([False, False])
    >>> score_section(answers_to(sure, np.array([0, 1]), ("cat", "dog"), flagged), settled_here=True)["about"]
    'It named 2 of 2 pictures rightly that it had not learnt from.'
    """
    count, right = len(answers), int(answers.correct.sum())
    error, rows = calibration_error(answers.confidence, answers.correct), _class_rows(answers)
    lost = log_loss(answers.label_probability[:, None], np.zeros(count, dtype=np.int64))
    confused = _commonest(answers)
    about = f"It named {right:,} of {count:,} pictures rightly that it had not learnt from."
    about += f" Most often it took {confused}." if confused else ""
    confidence = (
        f"On average its confidence is off by {error * 100:.1f} percentage points (calibration error {error:.4f}; "
        f"log loss {lost:.4f}). " + _unsure(answers)
    )
    if settled_here:
        confidence += " Confidence was fitted to these same pictures, so expect slightly less of others."
    return {
        "about": about,
        "confidence": confidence,
        "large": len(answers.class_names) > NUMBERED,
        "confusion": to_svg(confusion_plot(answers), "confusion", f"Confusion matrix. {about}"),
        "reliability": to_svg(reliability_plot(answers), "reliability", f"Reliability diagram. {confidence}"),
        "coverage": to_svg(coverage_plot(answers), "coverage", f"Accuracy against coverage. {_unsure(answers)}"),
        "hardest": rows[:NUMBERED],
        "easier": rows[NUMBERED:],
    }


def _unsure(answers: Answers) -> str:
    sure = ~answers.unsure
    if not sure.any():
        return "It was unsure of every picture."
    text = f"It was unsure of {percent(float(answers.unsure.mean()), len(answers))} of the pictures"
    return f"{text}; of the others it named {percent(float(answers.correct[sure].mean()), len(answers))} rightly."


def _commonest(answers: Answers) -> str:
    """Name the commonest confusion, if any came twice."""
    mistakes = answers.confusion()
    np.fill_diagonal(mistakes, 0)
    label, predicted = np.unravel_index(mistakes.argmax(), mistakes.shape)
    often = int(mistakes[label, predicted])
    names = answers.class_names
    return f"{names[label]} for {names[predicted]} ({often:,} times)" if often > 1 else ""


def _class_rows(answers: Answers) -> list[dict[str, Any]]:
    """Score each class that there are pictures of, the hardest first."""
    mistakes = answers.confusion()
    scored, met = class_scores(mistakes), mistakes.sum(axis=1).nonzero()[0]
    np.fill_diagonal(mistakes, 0)
    rows = []
    for i in sorted(met, key=lambda i: scored[i]["f1"]):
        often = int(mistakes[i].max())
        rows.append(
            {
                "name": answers.class_names[i],
                "images": int(scored[i]["images"]),
                **{key: percent(scored[i][key]) for key in ("recall", "precision", "f1")},
                "taken_for": f"{answers.class_names[int(mistakes[i].argmax())]} ({often:,})" if often else "",
            }
        )
    return rows


def clinic_section(clinic: Clinic, root: str) -> dict[str, Any]:
    """Sort the mistakes by cause, each with its picture and the nearest training pictures.

    Parameters
    ----------
    clinic : Clinic
        From `diagnose`.
    root : str
        Where the data stands; it is left out of names.

    Returns
    -------
    dict
        `about` and `groups`.

    Examples
    --------
    >>> from imprint import load, train
    >>> from imprint.clinic import diagnose
    >>> digits = load("digits")
    >>> model = train(digits[:900], recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
    >>> clinic_section(diagnose(model, digits[900:], digits[:900]), "digits")["about"]
    'It erred on ... of 897 pictures. ...
    """
    count = len(clinic.mistakes)
    about = f"It erred on {count:,} of {len(clinic.images):,} pictures. Each stands under the first rule that holds."
    groups = [
        {
            "cause": cause,
            "title": title[0].upper() + title[1:],
            "rule": RULES[cause],
            "count": len(found),
            "cards": [_card(mistake, clinic, root) for mistake in found[:CARDS]],
        }
        for cause, title in CAUSES.items()
        if (found := clinic.of(cause))
    ]
    return {"about": about if count else "It made none.", "groups": groups}


def _card(mistake: Mistake, clinic: Clinic, root: str) -> dict[str, Any]:
    """Show one mistake."""
    names = clinic.answers.class_names
    labels = clinic.training.labels_among(names)
    return {
        "picture": page_picture(np.asarray(clinic.images.pixels[mistake.picture])),
        "place": place_text(clinic.images.sources[mistake.picture], root),
        "label": names[mistake.label],
        "predicted": names[mistake.predicted],
        "confidence": percent(mistake.confidence),
        "near": [
            {
                "picture": page_picture(np.asarray(clinic.training.pixels[i]), NEAR_SIDE),
                "label": names[labels[i]],
                "short": shorten(names[labels[i]], 16),
            }
            for i in mistake.neighbours
        ],
    }


def mistake_rows(answers: Answers, root: str) -> list[dict[str, str]]:
    r"""List the worst mistakes without pictures.

    Parameters
    ----------
    answers : Answers
        To the validation pictures.
    root : str
        Where the data stood; it is left out of names.

    Returns
    -------
    list of dict
        With `place`, `label`, `predicted` and `confidence`.

    Examples
    --------
    >>> from imprint.answers import answers_to
    >>> sure, flagged = np.eye(2, dtype=np.float32), np.array([False, False])
    >>> mistake_rows(answers_to(sure, np.array([0, 0]), ("cat", "dog"), flagged), "")
    [{'place': 'row 2', 'label': 'cat', 'predicted': 'dog', 'confidence': '100.0\xa0%'}]
    """
    names = answers.class_names
    return [
        {
            "place": place_text(answers.sources[i], root),
            "label": names[answers.labels[i]],
            "predicted": names[answers.predicted[i]],
            "confidence": percent(float(answers.confidence[i])),
        }
        for i in answers.worst()[:LISTED]
    ]


def place_text(source: Any, root: str) -> str:
    """Name where a picture stands: the row of a table, or a path within the data.

    Parameters
    ----------
    source : int or str
        From `LabelledImages.sources`.
    root : str
        Where the data stands; it is left out.

    Returns
    -------
    str
        Short.

    Examples
    --------
    >>> place_text(np.int64(7), "a.csv"), place_text("/home/me/photos/cat/1.jpg", "/home/me/photos")
    ('row 7', 'cat/1.jpg')
    """
    if isinstance(source, int | np.integer):
        return f"row {source}"
    text = str(source)
    if root and text.startswith((f"{root}/", f"{root}\\")):
        return text[len(root) + 1 :]
    return Path(text).name if Path(text).is_absolute() else text  # where a person's folders stand is nobody's business
