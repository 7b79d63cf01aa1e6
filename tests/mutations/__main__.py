"""Does a test fail for every wrong policy? `make mutations`, or: python -m tests.mutations [RULE ...]

Each mutant of `policy_mutants` is applied to a copy of the package, which the policy's tests then run against until one
fails. It ends with 1 when a mutant survives, is stale, or when a rule has none. Some minutes; the tree is not touched.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.mutations.policy_mutants import MUTANTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.mutations.policy_mutants import Mutant

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "src" / "whimbrel"
POLICY: Final = PACKAGE / "_policy.py"
SUITES: Final = {"tests/unit/test_policy.py": 20, "tests/property/test_policy_properties.py": 300}
"""The quick one first; and how long one test may take, in seconds: some wrong policies ask to be called for ever."""
TESTS_FAILED: Final = 1
"""Of pytest's exit statuses; all others say that the tests did not run."""


class _Unusable(Exception):
    """The check itself went wrong. The message says how."""


def main() -> int:
    """Try them all, or those of the rules named. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="tests.mutations", description=__doc__.partition("\n")[0])
    parser.add_argument("rules", metavar="RULE", nargs="*", type=int, help="only these (0: what holds for all)")
    wanted = parser.parse_args().rules
    source = POLICY.read_text()
    mutants = [mutant for mutant in MUTANTS if not wanted or mutant.rule in wanted]
    complaints = stale(mutants, source) + untried(source)
    survivors = 0
    if not complaints:
        try:
            survivors = try_all(mutants, source)
        except _Unusable as error:
            complaints.append(str(error))
    for complaint in complaints:
        print(f"mutations: {complaint}", file=sys.stderr)
    return 1 if complaints or survivors else 0


def try_all(mutants: Sequence[Mutant], source: str) -> int:
    """Say of each mutant which test failed. Returns how many survive.

    Raises:
        _Unusable: the tests do not run, or fail for the policy as it is.
    """
    if failed := run(source):
        raise _Unusable(f"a test fails for the policy as it is: {failed}")
    mutated = [source.replace(mutant.text, mutant.instead) for mutant in mutants]
    survivors = 0
    # What takes time are the tests, in processes of their own.
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        try:
            for mutant, failed in zip(mutants, executor.map(run, mutated), strict=True):
                survivors += failed is None
                print(f"rule {mutant.rule:2}: {mutant.breaks}: {failed or 'NO TEST FAILS'}", flush=True)
        finally:
            executor.shutdown(cancel_futures=True)
    print(f"{len(mutants)} mutants, {survivors} of them survive")
    return survivors


def stale(mutants: Sequence[Mutant], source: str) -> list[str]:
    """Name those that cannot be applied to the policy as it is."""
    found = []
    for mutant in mutants:
        count = source.count(mutant.text)
        if count != 1 or mutant.text == mutant.instead:
            where = f"its text is there {count} times, not once: {mutant.text.strip()!r}"
            found.append(f"the mutant that {mutant.breaks!r} (rule {mutant.rule}) is stale: {where}")
    return found


def untried(source: str) -> list[str]:
    """Name the rules that no mutant breaks."""
    rules = {int(number) for number in re.findall(r"^ ?(\d+)\. ", source.partition("The states")[0], re.MULTILINE)}
    tried = Counter(mutant.rule for mutant in MUTANTS)
    return [f"no mutant breaks rule {rule}" for rule in sorted(rules) if not tried[rule]] or (
        [] if rules else [f"{POLICY.name} numbers no rules"]
    )


def run(source: str) -> str | None:
    """Return the first test that fails with this policy, or None.

    Raises:
        _Unusable: the tests do not run, or not with this policy.
    """
    with tempfile.TemporaryDirectory(prefix="whimbrel-mutant-") as folder:
        copy = Path(folder) / PACKAGE.name
        copy.mkdir()
        for entry in PACKAGE.iterdir():
            if entry.name not in (POLICY.name, "__pycache__"):
                (copy / entry.name).symlink_to(entry)
        (copy / POLICY.name).write_text(source)
        return first_failure(copy)


def first_failure(copy: Path) -> str | None:
    """Run the suites against a copy of the package; the same as `run`."""
    # What hypothesis finds wrong here is not to be tried again where all is well.
    kept = {"HYPOTHESIS_STORAGE_DIRECTORY": str(copy.parent / "hypothesis"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**os.environ, **kept, "PYTHONPATH": str(copy.parent)}
    where = "import whimbrel._policy as policy; print(policy.__file__)"
    command = [sys.executable, "-c", where]
    imported = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if imported.stdout.strip() != str(copy / POLICY.name):
        raise _Unusable(f"the copy cannot be imported: {imported.stdout}{imported.stderr}")
    for suite, longest in SUITES.items():
        options = ("-x", "-q", "--no-header", "-p", "no:cacheprovider", f"--timeout={longest}")
        command = [sys.executable, "-m", "pytest", *options, suite]
        tried = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if tried.returncode == TESTS_FAILED:
            named = re.search(r"^(?:FAILED|ERROR) (?:\S*::)?(\S+)", tried.stdout, re.MULTILINE)
            if named is None:
                raise _Unusable(f"what pytest said of {suite} names no test: {tried.stdout[-2000:]}")
            return named[1]
        if tried.returncode != 0:
            raise _Unusable(f"{suite} does not run: {tried.stdout[-2000:]}{tried.stderr[-2000:]}")
    return None


if __name__ == "__main__":
    sys.exit(main())
