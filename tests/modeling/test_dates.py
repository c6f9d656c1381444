"""Dates: in names of files, and as days."""

from datetime import UTC, date, datetime

import numpy as np
import pytest

from spectralgpt_hf.modeling.dates import date_in_name, days_since_1970


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", "2017-06-13"),
        ("LC09_L2SP_190027_20220613_20220615_02_T1_SR_B5.TIF", "2022-06-13"),
        ("eolearn_L1C_2015-07-11.tif", "2015-07-11"),
        ("scene_120150711.tif", None),
        ("eolearn_LULC.tif", None),
        ("20151399.tif", None),
    ],
)
def test_the_date_in_a_name_is_that_of_the_acquisition(name, expected):
    assert date_in_name(name) == expected


@pytest.mark.parametrize(
    "moment",
    [
        "2015-07-11",
        "20150711",
        "20150711T100000",
        "2015-07-11T10:00:00Z",
        date(2015, 7, 11),
        datetime(2015, 7, 11, 23, tzinfo=UTC),
        np.datetime64("2015-07-11T10:00:00.000000000"),
        16627,
        16627.9,
        np.int64(16627),
    ],
)
def test_dates_of_all_kinds_become_days(moment):
    assert days_since_1970(moment) == 16627


@pytest.mark.parametrize("moment", ["July", "2015", "2015-13-01", float("nan"), None, np.datetime64("NaT")])
def test_what_is_no_date_is_refused(moment):
    with pytest.raises(ValueError, match="Expected a date"):
        days_since_1970(moment)
