# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Dates of acquisition in file names and metadata, and their conversion to the days that the model expects."""

import re
from datetime import date
from numbers import Real
from typing import TypeAlias

import numpy as np


# Days since 1 January 1970, text in ISO 8601, or a moment.
Date: TypeAlias = float | str | date | np.datetime64


def date_in_name(name: str) -> str | None:
    """Return the first date from 2000 on in the name of a file, as YYYY-MM-DD; None without one."""
    found = re.search(r"(?<!\d)(20\d\d)-?([01]\d)-?([0-3]\d)(?!\d)", name)
    return "-".join(found.groups()) if found else None


def days_since_1970(moment: Date) -> int:
    """Return the whole days from 1 January 1970 to a date. Numbers are such days already.

    Raises:
        ValueError: If the value is not a date.
    """
    if isinstance(moment, Real) and np.isfinite(float(moment)):
        return int(np.floor(float(moment)))
    text = re.sub(r"^(\d{4})(\d\d)(\d\d)(?!\d)", r"\1-\2-\3", str(moment))
    day = re.match(r"\d{4}-\d\d-\d\d(?!\d)", text)
    try:
        return int(np.datetime64(day[0] if day else "?", "D").astype(int))
    except ValueError as error:
        raise ValueError(f"Expected a date (YYYY-MM-DD, or days since 1 January 1970), found {moment!r}.") from error
