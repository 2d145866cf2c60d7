"""Files that a run is started with: kept when it was, gone when it was not."""

import uuid

import pytest

from crews.inputs import InputFile
from executions.actions import inputs_folder
from executions.actions.starting import kept_files

FILES = {"sheet": InputFile("a.csv", b"1,2")}


def test_files_stay_when_the_run_was_stored() -> None:
    execution = uuid.uuid4()
    with kept_files(execution, FILES):
        pass
    assert (inputs_folder(execution) / "sheet" / "a.csv").read_bytes() == b"1,2"


def test_nothing_stays_of_a_run_that_could_not_be_stored() -> None:
    execution = uuid.uuid4()
    with pytest.raises(LookupError), kept_files(execution, FILES):
        raise LookupError
    assert not inputs_folder(execution).exists()
