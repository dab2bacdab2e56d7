import importlib.util
import re

import pytest

from spade_keras.errors import MissingExtraError
from spade_keras.export import ExportError, check_script, saved_model
from spade_keras.latency import fresh_process


def run(tmp_path, code, environment=None, timeout_s=60.0):
    fresh_process.run_job(
        ["-c", code],
        tmp_path,
        {},
        {},
        purpose="tests",
        environment=environment or {},
        timeout_s=timeout_s,
        raises=ExportError,
    )


def test_a_failing_process_is_shown_in_full(tmp_path):
    code = "print('said before'); raise LookupError('the reason')"
    with pytest.raises(ExportError, match="that tests failed with exit code 1") as caught:
        run(tmp_path, code)
    assert re.search("said before.*Traceback.*LookupError: the reason", str(caught.value), re.S)


def test_a_killed_process_is_an_error_too(tmp_path):
    with pytest.raises(ExportError, match="exit code -9"):
        run(tmp_path, "import os; os.kill(os.getpid(), 9)")


def test_a_process_that_does_not_end_is_killed_and_shown(tmp_path):
    code = "import signal; print('so far', flush=True); signal.pause()"
    with pytest.raises(ExportError, match=r"(?s)did not end within 1 s.*so far"):
        run(tmp_path, code, timeout_s=1)


def test_the_environment_is_set_and_unset(tmp_path, monkeypatch):
    monkeypatch.setenv("TO_UNSET", "1")
    code = "import os; assert os.environ['TO_SET'] == '2'; assert 'TO_UNSET' not in os.environ"
    run(tmp_path, code, {"TO_SET": "2", "TO_UNSET": None})


def test_the_check_makes_keras_and_the_library_unimportable(tmp_path):
    forbid = f"import runpy; runpy.run_path({check_script.__file__!r})['_forbid_keras']()"
    run(tmp_path, forbid)
    for name in ("keras", "spade_keras"):
        with pytest.raises(ExportError, match=f"ModuleNotFoundError.*{name}"):
            run(tmp_path, f"{forbid}; import {name}.layers")


def test_the_check_refuses_a_process_that_has_imported_keras():
    with pytest.raises(RuntimeError, match=r"Already imported when the check began: .*keras"):
        check_script._forbid_keras()


def test_missing_tensorflow_is_an_error_with_the_pip_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'spade-keras\[tensorflow\]'"):
        saved_model.require_packages("tensorflow", "tensorflow")
