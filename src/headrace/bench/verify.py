"""Were the answers as they must be? Records -> named violations. Measures nothing."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from headrace.bench.options import Options
from headrace.bench.record import Record


def find_violations(records: Iterable[Record], options: Options) -> Counter[str]:
    """Name -> number of requests. Failed requests are counted elsewhere, cancelled ones only
    answer for what came before this client hung up."""
    records = list(records)
    found: Counter[str] = Counter()
    for record in records:
        found.update(set(record.faults))
        if record.is_complete:
            found.update(_of_end(record))
            found.update(_of_counts(record, options))
    if options.check_determinism:
        found.update(_of_pairs(records))
    return found


def _of_end(record: Record) -> Iterator[str]:
    if record.num_done != 1:
        yield "no [DONE]" if record.num_done == 0 else "more than one [DONE]"
    if len(record.finish_reasons) != 1:
        yield "no finish_reason" if not record.finish_reasons else "more than one finish_reason"


def _of_counts(record: Record, options: Options) -> Iterator[str]:
    num_tokens = record.completion_tokens
    if num_tokens is None:
        yield "no usage"
    # A model may end its answer with its very first token; that one stream has no text.
    ended_at_once = record.finish_reasons == ["stop"] and num_tokens in (0, 1)
    if not record.pieces and not ended_at_once:
        yield "empty stream"
    if num_tokens is None:
        return
    if len(record.pieces) > num_tokens:  # Fewer is right: a token may bring no text of its own.
        yield "more chunks than usage.completion_tokens"
    if num_tokens > options.max_tokens:
        yield "more tokens than max_tokens"
    if options.ignore_eos and num_tokens < options.max_tokens:
        yield "fewer tokens than max_tokens with ignore_eos"
    if options.count_tokens and not _is_count_right(record, num_tokens):
        yield "tokens listed != usage.completion_tokens"


def _is_count_right(record: Record, num_tokens: int) -> bool:
    # Whether the end-of-sequence token is listed differs between servers.
    unlisted = {0, 1} if record.finish_reasons == ["stop"] else {0}
    return num_tokens - record.num_listed_tokens in unlisted


def _of_pairs(records: Sequence[Record]) -> Iterator[str]:
    groups: defaultdict[int, list[Record]] = defaultdict(list)
    for record in records:
        if record.error is None:
            groups[record.prompt_number].append(record)
    for group in groups.values():
        longest = max(group, key=lambda record: len(record.text))
        if not all(_agrees(record, longest) for record in group):
            yield "same prompt, different text"


def _agrees(record: Record, longest: Record) -> bool:
    if record.cancelled:
        return longest.text.startswith(record.text)
    return record.text == longest.text
