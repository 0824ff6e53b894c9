"""picture.py DASHBOARD SERVER FROM TO PICTURE: the dashboard's panels as a Prometheus server answers their queries, drawn as one SVG."""

import json
import sys
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend)

MOST_SERIES = 8  # lines that a panel shows by name; of more, those that reach highest


def ask(server, expression, begin, end):
    query = expression.replace("$pool", ".*").replace("$__rate_interval", "6s")
    words = urllib.parse.urlencode({"query": query, "start": begin, "end": end, "step": 1})
    with urllib.request.urlopen(f"{server}/api/v1/query_range?{words}", timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def name_of(legend, labels):
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", value).replace("{{ " + label + " }}", value)
    return legend


def lines_of(panel, server, begin, end):
    lines = []
    for target in panel["targets"]:
        for series in ask(server, target["expr"], begin, end):
            points = [(float(at) - begin, float(value)) for at, value in series["values"] if value not in ("NaN", "+Inf")]
            if points:
                lines.append((name_of(target.get("legendFormat", ""), series["metric"]), points))
    lines = [line for line in lines if any(value for _, value in line[1])] or lines[:1]
    return sorted(lines, key=lambda line: -max(value for _, value in line[1]))[:MOST_SERIES]


def main(dashboard, server, begin, end, picture):
    begin, end = int(begin), int(end)
    panels = [p for p in json.load(open(dashboard))["panels"] if p.get("targets")]
    plt.rcParams.update({"font.size": 7, "svg.fonttype": "none", "svg.hashsalt": "sshpool", "axes.spines.top": False, "axes.spines.right": False})
    columns = 2
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 2.1 * rows), layout="constrained", squeeze=False)
    for place, panel in zip(axes.flat, panels):
        for name, points in lines_of(panel, server, begin, end):
            place.plot(*zip(*points), label=name, linewidth=1)
        place.set_title(panel["title"], loc="left", fontweight="bold")
        place.set_xlim(0, end - begin)
        place.set_ylim(bottom=0)
        place.grid(alpha=0.3)
        place.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=6)
    for place in list(axes.flat)[len(panels):]:
        place.axis("off")
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
