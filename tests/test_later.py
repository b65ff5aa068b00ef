"""Imports that wait: scipy's optimisers and distributions come with the networks in name only."""

import subprocess
import sys


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_a_picture_is_drawn_without_the_modules_that_nobody_needs():
    drawn = (
        "import sys, graphengine\n"
        "graphengine.run('workflows/text_to_image.json', steps=1)\n"
        "print([name for name in ('scipy.optimize', 'scipy.stats', 'torch') if name in sys.modules])"
    )
    assert python(drawn) == "['torch']"


def test_what_was_imported_in_name_works_when_it_is_called():
    called = (
        "from graphengine.models.later import imported_later\n"
        "with imported_later():\n"
        "    import scipy.stats\n"
        "    from scipy.optimize import linear_sum_assignment\n"
        "    early = linear_sum_assignment([[1, 0], [0, 1]])[1].tolist()\n"
        "print(early, linear_sum_assignment([[0, 1], [1, 0]])[1].tolist(), scipy.stats.norm.cdf(0))"
    )
    assert python(called) == "[1, 0] [0, 1] 0.5"


def test_an_import_afterwards_is_an_import():
    after = (
        "from graphengine.models.later import imported_later\n"
        "with imported_later():\n"
        "    import scipy.stats\n"
        "import scipy.stats, scipy.optimize\n"
        "print(scipy.stats.__name__, issubclass(scipy.optimize.OptimizeResult, dict))"
    )
    assert python(after) == "scipy.stats True"


def test_scipy_itself_gets_the_real_ones():
    within = (
        "from graphengine.models.later import imported_later\n"
        "with imported_later():\n"
        "    import scipy.signal\n"
        "print(scipy.signal.get_window('hann', 4).size, issubclass(scipy.optimize.OptimizeResult, dict))"
    )
    assert python(within) == "4 True"


def test_what_is_there_already_stays():
    before = (
        "import scipy.optimize as real\n"
        "from graphengine.models.later import imported_later\n"
        "with imported_later():\n"
        "    import scipy.optimize\n"
        "print(scipy.optimize is real)"
    )
    assert python(before) == "True"
