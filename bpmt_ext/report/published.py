"""`published.yaml`, a checked list of figures that others have published and how they were made, in; its rows out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from bpmt_ext.config_layers import parse_yaml
from bpmt_ext.errors import UserError
from bpmt_ext.regular import read_regular

FILE = Path(__file__).with_name("published.yaml")

Percent = Annotated[float, Field(ge=0, le=100)]
Word = Annotated[str, Field(min_length=1)]
Many = Annotated[int, Field(ge=1)]
FINETUNING = "finetune"  # the last stage's name in `epochs`


class Published(BaseModel):
    """One published result, and the recipe of its training where the project has a config for it.

    The recipe is the config with `opts` over it. Where the source counts epochs, `epochs` gives every stage's: one
    is ceil(training sequences / sequences in a batch) iterations, which is known once the data is there.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+([._+-][a-z0-9]+)*$", description="Its name here")]
    dataset: Word = Field(description="Data set, as data_cfg.dataset_name says it")
    model: Word = Field(description="Method, as model_cfg.model says it where the project has it")
    recipe: Word = Field(description="vanilla, improved, paper, ...: which of several trainings of the method")
    config: str | None = Field(default=None, description="The project's config of this training, configs/...")
    metrics: dict[Word, Percent] = Field(min_length=1, description="Percent, by the names of our own metrics")
    source: Word = Field(description="Who says so, and where")
    table: Word = Field(default="", description="Heading it stands under; the data set's name where left out")
    tolerance: float | None = Field(default=None, gt=0, description="Percent points a reproduction may be off")
    opts: list[Word] = Field(default=[], description="What the config is overridden with, as --opts")
    test: Word | None = Field(default=None, description="Config whose data and protocol it is tested on, if another's")
    epochs: dict[Word, Many] = Field(default={}, description="Epochs of every stage, finetune for the last")
    scanned: Many | None = Field(default=None, description="Only the first so many people of TRAIN_SET, by their names")
    kept: Many | None = Field(default=None, description="How many of them the source says had enough cameras")
    note: Word | None = Field(default=None, description="What else must be known of it")

    @model_validator(mode="before")
    @classmethod
    def _headed(cls, values: Any) -> Any:
        return {"table": values["dataset"], **values} if isinstance(values, dict) and "dataset" in values else values

    @model_validator(mode="after")
    def _whole(self) -> Published:
        recipe = {"tolerance": self.tolerance, "opts": self.opts, "test": self.test, "epochs": self.epochs}
        if self.config is None and any(recipe.values()):
            raise ValueError(f"{', '.join(k for k, v in recipe.items() if v)} without a config")
        if self.config is not None and self.tolerance is None:
            raise ValueError("a recipe without a tolerance")
        return self


def read_published(path: Path = FILE) -> list[Published]:
    """The rows of a file; UserError naming the row for an unknown key, a wrong type or an id given twice."""
    try:
        values: Any = parse_yaml(read_regular(path).decode("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "not text"
        raise UserError(f"{path}: cannot be read ({told}); name a file of published results") from error
    if not isinstance(values, list):
        raise UserError(f"{path}: should be a list of rows (id, dataset, model, recipe, config, metrics, source)")
    rows = []
    for i, value in enumerate(values):
        name = value.get("id", i + 1) if isinstance(value, dict) else i + 1
        try:
            rows.append(TypeAdapter(Published).validate_python(value))
        except ValidationError as error:
            first = error.errors()[0]
            told = ": ".join([".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")])
            raise UserError(f"{path}: row {name}: {told.removeprefix(': ')}; correct this row") from error
    ids = [row.id for row in rows]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise UserError(f"{path}: row {twice[0]}: the id is given twice; every row has its own")
    return rows


def published_for(dataset: str, rows: list[Published] | None = None) -> list[Published]:
    """The rows quoted for one data set (its own table), best Rank-1 or top1 last where they have it."""
    found = [row for row in (read_published() if rows is None else rows) if row.table.lower() == dataset.lower()]
    return sorted(found, key=lambda row: row.metrics.get("Rank-1", row.metrics.get("top1", 0.0)))
