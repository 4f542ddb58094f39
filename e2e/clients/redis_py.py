"""What an application does with redis-py, unchanged: argv are the endpoints of two regions, host:port each."""

import sys
import threading
import time

import redis

here, there = (dict(zip(("host", "port"), endpoint.rsplit(":", 1))) for endpoint in sys.argv[1:3])


def until(what, check):
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline, f"{what} did not happen in 20 s"
        time.sleep(0.01)


for protocol in (2, 3):
    a = redis.Redis(**here, protocol=protocol, decode_responses=True)
    b = redis.Redis(**there, protocol=protocol, decode_responses=True)
    k = f"py{protocol}:"
    assert a.ping()
    assert a.set(k + "text", "grüße", ex=1000)
    assert a.get(k + "text") == "grüße"
    assert 0 < a.ttl(k + "text") <= 1000
    assert a.set(k + "text", "no", nx=True) is None
    assert a.incr(k + "n") == 1 and b.ping()
    assert a.incrbyfloat(k + "x", 1.5) == 1.5
    assert a.hset(k + "cart", mapping={"tea": 2, "silk": 1}) == 2
    assert a.hgetall(k + "cart") == {"tea": "2", "silk": "1"}
    assert a.hincrby(k + "cart", "tea", 3) == 5
    assert a.sadd(k + "tags", "x", "y") == 2
    assert a.smembers(k + "tags") == {"x", "y"}
    assert a.zadd(k + "board", {"ann": 1, "bob": 2.5}) == 2
    assert a.zrange(k + "board", 0, -1, withscores=True) in ([("ann", 1.0), ("bob", 2.5)], [["ann", 1.0], ["bob", 2.5]])
    assert a.zincrby(k + "board", 2, "ann") == 3.0
    assert a.mset({k + "m1": "1", k + "m2": "2", k + "m3": "3"})
    assert a.mget(k + "m1", k + "m2", k + "none", k + "m3") == ["1", "2", None, "3"]
    assert a.exists(k + "m1", k + "m2", k + "none") == 2
    assert a.delete(k + "m1", k + "m2", k + "m3") == 3
    pipe = a.pipeline(transaction=False)
    for i in range(500):
        pipe.set(f"{k}p:{i}", i)
        pipe.get(f"{k}p:{i}")
    replies = pipe.execute()
    assert replies[1::2] == [str(i) for i in range(500)]
    assert len(set(a.scan_iter(match=k + "p:*", count=50))) == 500
    assert a.type(k + "cart") == "hash"
    assert isinstance(a.info(), dict) and isinstance(a.dbsize(), int)
    assert a.client_id() is not None
    try:
        a.incr(k + "cart")
        raise AssertionError("INCR of a hash succeeded")
    except redis.ResponseError as error:
        assert "WRONGTYPE" in str(error)
    try:
        a.lpush(k + "list", 1)
        raise AssertionError("a list was accepted")
    except redis.ResponseError as error:
        assert "not supported" in str(error)

    # The other region sees it, and both may write.
    until("the cart's arrival", lambda: b.hgetall(k + "cart") == {"tea": "5", "silk": "1"})
    until("the text's arrival", lambda: b.get(k + "text") == "grüße")
    threads = [threading.Thread(target=lambda c=c: [c.incr(k + "hits") for _ in range(200)]) for c in (a, b)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    until("the sum in both", lambda: a.get(k + "hits") == b.get(k + "hits") == "400")

    # A pool shared by threads.
    pool = redis.Redis(connection_pool=redis.BlockingConnectionPool(**here, protocol=protocol, max_connections=8))
    threads = [threading.Thread(target=lambda: [pool.sadd(k + "pool", i) for i in range(50)]) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert pool.scard(k + "pool") == 50

print(f"redis-py {redis.__version__}: RESP2 and RESP3 ok")
