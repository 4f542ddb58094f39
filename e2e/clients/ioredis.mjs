// What an application does with ioredis, unchanged: argv are the endpoints of two regions, host:port each.
import assert from "node:assert/strict";
import Redis from "ioredis";

const [a, b] = process.argv.slice(2, 4).map((endpoint) => new Redis(`redis://${endpoint}`));

async function until(what, check) {
  const deadline = Date.now() + 20000;
  while (!(await check())) {
    assert.ok(Date.now() < deadline, `${what} did not happen in 20 s`);
    await new Promise((done) => setTimeout(done, 10));
  }
}

assert.equal(await a.ping(), "PONG");
assert.equal(await a.set("io:text", "grüße", "EX", 1000), "OK");
assert.equal(await a.get("io:text"), "grüße");
assert.equal(await a.incrby("io:n", 5), 5);
assert.equal(await a.hset("io:cart", { tea: 2, silk: 1 }), 2);
assert.deepEqual(await a.hgetall("io:cart"), { tea: "2", silk: "1" });
assert.equal(await a.sadd("io:tags", "x", "y"), 2);
assert.equal(await a.zadd("io:board", 1, "ann", 2.5, "bob"), 2);
assert.deepEqual(await a.zrange("io:board", 0, -1, "WITHSCORES"), ["ann", "1", "bob", "2.5"]);
assert.equal(await a.mset("io:m1", 1, "io:m2", 2, "io:m3", 3), "OK");
assert.deepEqual(await a.mget("io:m1", "io:none", "io:m3"), ["1", null, "3"]);
assert.equal(await a.del("io:m1", "io:m2", "io:m3"), 3);
const pipeline = a.pipeline();
for (let i = 0; i < 500; i++) pipeline.set(`io:p:${i}`, i).get(`io:p:${i}`);
const replies = await pipeline.exec();
assert.ok(replies.every(([error]) => error === null));
assert.deepEqual(replies.filter((_, i) => i % 2).map(([, value]) => value), [...Array(500).keys()].map(String));
const found = new Set();
for await (const keys of a.scanStream({ match: "io:p:*", count: 50 })) keys.forEach((key) => found.add(key));
assert.equal(found.size, 500);
await assert.rejects(a.incr("io:cart"), /WRONGTYPE/);
await assert.rejects(a.lpush("io:list", 1), /not supported/);
// Many at once on one connection, in both regions.
await Promise.all([a, b].flatMap((client) => [...Array(200)].map(() => client.incr("io:hits"))));
await until("the sum in both", async () => (await a.get("io:hits")) === "400" && (await b.get("io:hits")) === "400");
await until("the cart's arrival", async () => (await b.hget("io:cart", "tea")) === "2");
await Promise.all([a.quit(), b.quit()]);
console.log("ioredis: ok");
