"""The order of images against the rule written out as a loop."""

from collections import Counter, defaultdict
from hashlib import blake2b

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.data.order import balanced_order

images = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.text(max_size=5)), min_size=1, max_size=60, unique=True
)


def order_of(pairs):
    order = balanced_order([name for name, _ in pairs], [key for _, key in pairs])
    return [pairs[index] for index in order]


def by_the_rule(pairs):
    """Round after round, the next image of each class, everything sorted by hash."""

    def score(pair):
        return blake2b("\0".join(["0", *pair]).encode(), digest_size=8).digest()

    queues = defaultdict(list)
    for pair in sorted(pairs, key=score):
        queues[pair[0]].append(pair)
    result = []
    while any(queues.values()):
        result += sorted((queue.pop(0) for queue in queues.values() if queue), key=score)
    return result


@given(images)
def test_order_follows_the_rule(pairs):
    assert order_of(pairs) == by_the_rule(pairs)


@given(images, st.randoms())
def test_order_does_not_depend_on_the_listing(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert order_of(shuffled) == order_of(pairs)


@given(st.integers(1, 9), st.integers(1, 9))
def test_every_prefix_is_balanced(classes, each):
    pairs = [(str(name), str(key)) for name in range(classes) for key in range(each)]
    names = [name for name, _ in order_of(pairs)]
    for length in range(1, len(names) + 1):
        counts = Counter({str(name): 0 for name in range(classes)})
        counts.update(names[:length])
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_class_that_runs_out_leaves_the_rounds_to_the_others():
    names = [name for name, _ in order_of([("a", "1"), *(("b", str(key)) for key in range(5))])]
    assert sorted(names[:2]) == ["a", "b"] and names[2:] == ["b"] * 4


def test_within_a_class_the_order_stays_when_others_come_or_go():
    pairs = [(name, str(key)) for name in "abc" for key in range(20)]
    before = [pair for pair in order_of(pairs) if pair[0] == "b"]
    after = order_of([pair for pair in pairs if pair[0] == "b" and pair[1] != "7"])
    assert after == [pair for pair in before if pair[1] != "7"]


def test_the_order_is_a_contract_that_stored_results_rely_on():
    pairs = [(name, f"{key}.jpg") for name in ("cat", "dog", "eel") for key in range(2)]
    assert order_of(pairs) == [
        ("eel", "0.jpg"),
        ("dog", "0.jpg"),
        ("cat", "1.jpg"),
        ("dog", "1.jpg"),
        ("eel", "1.jpg"),
        ("cat", "0.jpg"),
    ]


def test_names_need_not_be_valid_text():
    order = balanced_order(["a", "a"], ["\udcff", "b"])
    assert sorted(order.tolist()) == [0, 1]


def test_it_is_not_the_sorted_order():
    order = balanced_order(["a"] * 1000, [f"{key:03d}" for key in range(1000)])
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
