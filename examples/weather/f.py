"""Monthly statistics of daily weather observations in Seattle, 2012 to 2015.

The data lies beside this file: seattle-weather.csv of the npm package vega-datasets 3.2.1 (BSD-3-Clause, made from
observations of the US National Centers for Environmental Information).
"""

import os

import pandas

OBSERVATIONS = os.path.join(os.path.dirname(__file__), 'seattle-weather.csv')


def f(event):
    """{"month": 7} -> means and totals of all Julys."""
    weather = pandas.read_csv(OBSERVATIONS, parse_dates=['date'])
    month = weather[weather['date'].dt.month == event['month']]
    return {
        'month': event['month'],
        'days': len(month),
        'meanMaxC': round(float(month['temp_max'].mean()), 2),
        'meanMinC': round(float(month['temp_min'].mean()), 2),
        'precipitationMm': round(float(month['precipitation'].sum()), 1),
    }
