"""A crawler over linked files: tasks that find more tasks."""

import tempfile
from pathlib import Path

import nbray as ray

LINKS = {"index": ["a", "b"], "a": ["b", "c"], "b": ["index"], "c": ["d"], "d": []}


@ray.remote
def fetch(folder, page):
    return page, (Path(folder) / page).read_text().split()


@ray.remote
def depth_of(folder, page, left):
    """How many pages are below, found by tasks that submit tasks."""
    if left == 0:
        return 0
    _, links = ray.get(fetch.remote(folder, page))
    below = ray.get([depth_of.remote(folder, link, left - 1) for link in links])
    return 1 + max(below, default=0)


ray.init(num_cpus=2)
with tempfile.TemporaryDirectory() as folder:
    for name, links in LINKS.items():
        (Path(folder) / name).write_text(" ".join(links))
    seen, running, order = {"index"}, [fetch.remote(folder, "index")], []
    while running:
        (ready,), running = ray.wait(running, num_returns=1)
        page, links = ray.get(ready)
        order.append(page)
        for link in links:
            if link not in seen:
                seen.add(link)
                running.append(fetch.remote(folder, link))
    assert seen == set(LINKS) and sorted(order) == sorted(LINKS)
    assert ray.get(depth_of.remote(folder, "c", 5)) == 2
print("crawled", len(order), "pages")
ray.shutdown()
