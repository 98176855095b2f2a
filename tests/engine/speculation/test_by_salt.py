from headrace.engine.speculation.by_salt import MAX_SALTS, BySalt


def test_salts_share_nothing() -> None:
    memories: BySalt[list[int]] = BySalt(list)
    memories.of("a").append(1)
    assert memories.of("b") == []
    assert memories.of("a") == [1]


def test_the_least_recently_used_is_forgotten() -> None:
    memories: BySalt[list[int]] = BySalt(list)
    for salt in ("a", "b"):
        memories.of(salt).append(1)
    for number in range(MAX_SALTS - 1):
        memories.of("a")
        memories.of(f"other {number}")
    assert memories.of("a") == [1]
    assert memories.of("b") == []
