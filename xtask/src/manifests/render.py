"""Renders a chart as `helm template` does, and writes {template: text} as JSON.

usage: render.py CHART [VALUES-AS-JSON]
"""

import json
import sys

import helm_python

with helm_python.Chart.load(sys.argv[1]) as chart:
    values = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    rendered = chart.render(values, name="interceptor", namespace="interceptor")
json.dump({name.rsplit("/", 1)[-1]: text for name, text in rendered.items()}, sys.stdout)
