"""Make the targets file of awareness from finished single-budget runs: `bdsa-targets`; see --help."""
from __future__ import annotations

from pathlib import Path

from bdsa.budgets import Budgets
from bdsa.commands.folder_arguments import launch_for_folders
from bdsa.config.commands import TargetsConfig
from bdsa.errors import UserError
from bdsa.runs.files import write_text
from bdsa.runs.selection import meets_budgets
from bdsa.runs.target_runs import PROVENANCE, absent_budgets, as_csv, mean_top1, read_runs, table

HELP = """bdsa-targets: the targets file of awareness from finished single-budget runs.

  bdsa-train -m model=cifar_resnet20 budgets.targets=[0.3],[0.5],[0.7] trainer.seed=0,1 out=singles
  bdsa-targets singles/*/ out=targets.csv
  bdsa-train model=cifar_resnet20 budgets.targets=[0.3,0.5,0.7] awareness=l1 awareness.targets=targets.csv

A row a model, a column a budget: the top-1 of the split that the runs report, the mean over their seeds.
The columns data, split and runs say where the numbers are from.

Settings:

"""


def main() -> None:
    """Entry point of bdsa-targets: bare words are folders, NAME=VALUE are settings."""
    launch_for_folders(collect, TargetsConfig, HELP, "out=targets.csv")


def collect(folders: list[str], config: TargetsConfig) -> None:
    """Write the file and say what is in it, what is missing and what is doubtful.

    Raises:
        UserError: for folders that do not fit together, or a file of someone else's in the way.
    """
    out = Path(config.out)
    if out.is_dir() or (out.exists() and not _is_ours(out)):
        raise UserError(f"out={out} exists and was not made by bdsa-targets: choose another name")
    runs = read_runs(folders, config.dense)
    cells = table(runs)
    budgets = sorted({r.budget for r in runs} | set(Budgets(config.budgets) if config.budgets else ()))
    write_text(out, as_csv(cells, budgets))
    for model, row in cells.items():
        for budget, cell in row.items():
            print(f"{model:<16} {budget:<5g} {mean_top1(cell):6.2f} %  "
                  f"{'1 run' if len(cell) == 1 else f'mean of {len(cell)} runs'}")
    for model, absent in absent_budgets(cells, budgets).items():
        print(f"missing: {model} at {', '.join(f'{b:g}' for b in absent)}; awareness needs a target for every budget "
              f"that it trains")
    for run in runs:
        if not meets_budgets([{"budget": run.budget, "conditional_fraction": run.fraction}],
                             run.settings["budgets.tolerance"]):
            print(f"note: {run.folder} ran {run.fraction:.3f} of the conditional MACs for budget {run.budget:g}")
    print(f"{runs[0].data}, split {runs[0].split}\n  targets    {out}")


def _is_ours(path: Path) -> bool:
    """Whether a file has the columns that `as_csv` writes."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\n").endswith("," + ",".join(PROVENANCE))


if __name__ == "__main__":
    main()
