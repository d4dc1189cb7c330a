"""KV blocks of a replica: some free, some held by one request, some shared through the prefix
cache.

The prefix cache names blocks by what they hold and all that comes before it, so equal names are
equal prefixes. A block that nobody uses stays until its room is needed; then the one that was used
last the longest ago goes. Of the blocks that one request lets go together the last of the prefix
goes first, for it is of no use without the others; or, by plain LRU (`tail_first` False), the
first, which was read first.
"""

from __future__ import annotations

from sim.serving.fleet import NONE, Fleet, Rules, Seen


def room(rules: Rules, fleet: Fleet, r: int) -> int:
    """Blocks that could be had: the free ones, and those of the cache that nobody uses."""
    me = fleet.replicas[r]
    if rules.unit_tokens == 0:
        return me.free_blocks
    return me.free_blocks + me.unused * (rules.unit_tokens // me.block_tokens)


def own_blocks(rules: Rules, fleet: Fleet, r: int, slot: int, tokens: int) -> int:
    """Blocks of its own that a request needs for `tokens` tokens, beside those of the prefix cache
    that it uses."""
    me = fleet.replicas[r]
    own = blocks_for(me.block_tokens, min(tokens, me.keeps))
    return own - fleet.slots[slot].shared * (rules.unit_tokens // me.block_tokens)


def blocks_for(block_tokens: int, tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return (tokens + block_tokens - 1) // block_tokens


def take(rules: Rules, fleet: Fleet, r: int, blocks: int) -> None:
    """Take `blocks` (there is room) out of the free ones, and out of the cache if they do not
    do."""
    me = fleet.replicas[r]
    while me.free_blocks < blocks:
        _evict(fleet, r, me.oldest)
        me.free_blocks += rules.unit_tokens // me.block_tokens
    me.free_blocks -= blocks
    me.peak_blocks = max(me.peak_blocks, me.blocks - room(rules, fleet, r))


def matched(fleet: Fleet | Seen, r: int, block_from: int, most: int) -> tuple[int, int]:
    """How many of the first `most` blocks of a prefix the cache has, and how many of those nobody
    uses now."""
    count, unused = 0, 0
    while count < most:
        node = _find(fleet, r, fleet.blocks[block_from + count])
        if node == NONE:
            break
        unused += fleet.nodes[r, node].users == 0
        count += 1
    return count, unused


def share(rules: Rules, fleet: Fleet, r: int, slot: int, count: int) -> None:
    """The request uses the first `count` blocks of its prefix, which are in the cache."""
    it = fleet.slots[slot]
    for i in range(it.shared, count):
        _use(fleet, r, _find(fleet, r, fleet.blocks[it.block_from + i]))
    it.shared = count


def publish(rules: Rules, fleet: Fleet, r: int, slot: int) -> None:
    """Put what the request has computed of its named blocks into the cache, or use what is there
    already."""
    me, it = fleet.replicas[r], fleet.slots[slot]
    unit = rules.unit_tokens // me.block_tokens
    while it.shared < it.block_count and (it.shared + 1) * rules.unit_tokens <= it.cached:
        key = fleet.blocks[it.block_from + it.shared]
        node = _find(fleet, r, key)
        if node == NONE:
            _insert(fleet, r, key)
        else:
            _use(fleet, r, node)
            me.free_blocks += unit
        it.held -= unit
        it.shared += 1


def release(rules: Rules, fleet: Fleet, r: int, slot: int) -> None:
    """The request gives up all of its blocks; those of the cache stay there while room allows."""
    me, it = fleet.replicas[r], fleet.slots[slot]
    me.free_blocks += it.held
    it.held = 0
    for i in range(it.shared):
        place = it.shared - 1 - i if rules.tail_first else i
        node = _find(fleet, r, fleet.blocks[it.block_from + place])
        at = fleet.nodes[r, node]
        at.users -= 1
        if at.users == 0:
            at.older, at.newer = me.newest, NONE
            if me.newest == NONE:
                me.oldest = node
            else:
                fleet.nodes[r, me.newest].newer = node
            me.newest = node
            me.unused += 1
    it.shared = 0


def shared(rules: Rules, fleet: Fleet, r: int, least: float, most: float) -> tuple[float, float]:
    """Of the blocks that sequences with one query have in common, those of `least` of them or more,
    up to `most` tokens, those of most sequences first: (sequences times tokens, tokens)."""
    me = fleet.replicas[r]
    fleet.by_number[:] = 0.0
    for place in range(me.running_count):
        it = fleet.slots[fleet.running[r, place]]
        for i in range(it.shared if it.chunk == 1 else 0):
            node = _find(fleet, r, fleet.blocks[it.block_from + i])
            if fleet.nodes[r, node].users < least:
                break  # who comes further down has no more
            fleet.nodes[r, node].lone += 1
    for place in range(me.running_count):
        it = fleet.slots[fleet.running[r, place]]
        for i in range(it.shared if it.chunk == 1 else 0):
            node = _find(fleet, r, fleet.blocks[it.block_from + i])
            if fleet.nodes[r, node].users < least:
                break
            fleet.by_number[fleet.nodes[r, node].lone] += rules.unit_tokens
            fleet.nodes[r, node].lone = 0  # counted
    pairs = entries = 0.0
    for number in range(me.running_count, 0, -1):
        if number < least:
            break
        tokens = min(fleet.by_number[number], most - entries)
        pairs += number * tokens
        entries += tokens
    return pairs, entries


def _bucket(fleet: Fleet | Seen, key: int) -> int:
    mixed = (key ^ (key >> 15)) * 0x2C1B3C6D
    return (mixed ^ (mixed >> 12)) & (fleet.buckets.shape[1] - 1)


def _find(fleet: Fleet | Seen, r: int, key: int) -> int:
    node = fleet.buckets[r, _bucket(fleet, key)]
    while node != NONE and fleet.nodes[r, node].key != key:
        node = fleet.nodes[r, node].chain
    return node


def _use(fleet: Fleet, r: int, node: int) -> None:
    at = fleet.nodes[r, node]
    if at.users == 0:
        _unlink(fleet, r, node)
    at.users += 1
    me = fleet.replicas[r]
    me.most_users = max(me.most_users, at.users)


def _unlink(fleet: Fleet, r: int, node: int) -> None:
    """Off the list of unused blocks."""
    me, at = fleet.replicas[r], fleet.nodes[r, node]
    if at.older == NONE:
        me.oldest = at.newer
    else:
        fleet.nodes[r, at.older].newer = at.newer
    if at.newer == NONE:
        me.newest = at.older
    else:
        fleet.nodes[r, at.newer].older = at.older
    me.unused -= 1


def _insert(fleet: Fleet, r: int, key: int) -> None:
    me = fleet.replicas[r]
    node = me.node_free
    if node == NONE:
        node = me.nodes_made
        me.nodes_made += 1
    else:
        me.node_free = fleet.nodes[r, node].chain
    at, bucket = fleet.nodes[r, node], _bucket(fleet, key)
    at.key, at.users, at.chain = key, 1, fleet.buckets[r, bucket]
    fleet.buckets[r, bucket] = node


def _evict(fleet: Fleet, r: int, node: int) -> None:
    _unlink(fleet, r, node)
    me, at = fleet.replicas[r], fleet.nodes[r, node]
    bucket = _bucket(fleet, at.key)
    before = fleet.buckets[r, bucket]
    if before == node:
        fleet.buckets[r, bucket] = at.chain
    else:
        while fleet.nodes[r, before].chain != node:
            before = fleet.nodes[r, before].chain
        fleet.nodes[r, before].chain = at.chain
    at.chain = me.node_free
    me.node_free = node
