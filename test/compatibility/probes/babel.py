# /// script
# dependencies = ["babel"]
# ///
import datetime

from babel import dates, numbers


def f(event):
    assert numbers.format_decimal(1234.5, locale='de') == '1.234,5'
    return dates.format_date(datetime.date(2024, 2, 29), locale='fr')
