// What an application does with node-redis, unchanged, over RESP3: argv are the endpoints of two regions.
import assert from "node:assert/strict";
import { createClient } from "redis";

const [a, b] = process.argv.slice(2, 4).map((endpoint) => createClient({ url: `redis://${endpoint}`, RESP: 3 }));
await Promise.all([a.connect(), b.connect()]);

async function until(what, check) {
  const deadline = Date.now() + 20000;
  while (!(await check())) {
    assert.ok(Date.now() < deadline, `${what} did not happen in 20 s`);
    await new Promise((done) => setTimeout(done, 10));
  }
}

assert.equal(await a.ping(), "PONG");
assert.equal(await a.set("node:text", "grüße", { EX: 1000 }), "OK");
assert.equal(await a.get("node:text"), "grüße");
assert.equal(await a.incrBy("node:n", 5), 5);
assert.equal(await a.hSet("node:cart", { tea: "2", silk: "1" }), 2);
assert.deepEqual({ ...(await a.hGetAll("node:cart")) }, { tea: "2", silk: "1" });
assert.equal(await a.sAdd("node:tags", ["x", "y"]), 2);
assert.deepEqual(new Set(await a.sMembers("node:tags")), new Set(["x", "y"]));
assert.equal(await a.zAdd("node:board", [{ score: 1, value: "ann" }, { score: 2.5, value: "bob" }]), 2);
assert.deepEqual(await a.zRangeWithScores("node:board", 0, -1), [{ value: "ann", score: 1 }, { value: "bob", score: 2.5 }]);
assert.deepEqual(await a.mGet(["node:text", "node:none"]), ["grüße", null]);
const replies = await Promise.all([...Array(500).keys()].map((i) => a.set(`node:p:${i}`, String(i))));
assert.ok(replies.every((reply) => reply === "OK"));
await assert.rejects(a.incr("node:cart"), /WRONGTYPE/);
await Promise.all([a, b].flatMap((client) => [...Array(200)].map(() => client.incr("node:hits"))));
await until("the sum in both", async () => (await a.get("node:hits")) === "400" && (await b.get("node:hits")) === "400");
await until("the cart's arrival", async () => (await b.hGet("node:cart", "tea")) === "2");
await Promise.all([a.close(), b.close()]);
console.log("node-redis: RESP3 ok");
