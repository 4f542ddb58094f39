//! Connections, the server, and what only this store has.

use super::Entry;
use crate::words;

pub(super) const ALL: &[Entry] = &[
    ("AUTH", 1, |_| words!["AUTH", "secret"]),
    ("CLIENT|GETNAME", 1, |_| words!["CLIENT", "GETNAME"]),
    ("CLIENT|HELP", 1, |_| words!["CLIENT", "HELP"]),
    ("CLIENT|ID", 1, |_| words!["CLIENT", "ID"]),
    ("CLIENT|INFO", 1, |_| words!["CLIENT", "INFO"]),
    ("CLIENT|LIST", 1, |_| words!["CLIENT", "LIST"]),
    ("CLIENT|NO-EVICT", 1, |d| words!["CLIENT", "NO-EVICT", d.pick(&["ON", "off", "maybe"])]),
    ("CLIENT|NO-TOUCH", 1, |d| words!["CLIENT", "NO-TOUCH", d.pick(&["ON", "OFF"])]),
    ("CLIENT|SETINFO", 1, |d| words!["CLIENT", "SETINFO", d.pick(&["LIB-NAME", "LIB-VER"]), "x"]),
    ("CLIENT|SETNAME", 1, |d| words!["CLIENT", "SETNAME", d.pick(&["me", "", "not me"])]),
    ("ECHO", 2, |d| words!["ECHO", d.value()]),
    ("HELLO", 1, |d| match d.below(4) {
        0 => words!["HELLO", d.pick(&["1", "4", "x"])],
        1 => words!["HELLO"],
        2 => words!["HELLO", d.protocol.to_string(), "SETNAME", "me"],
        _ => words!["HELLO", d.protocol.to_string(), d.pick(&["ODD", "SETNAME"])],
    }),
    ("PING", 2, |d| if d.chance(50) { words!["PING"] } else { words!["PING", d.value()] }),
    ("QUIT", 1, |_| words!["QUIT"]),
    ("RESET", 1, |_| words!["RESET"]),
    ("SELECT", 1, |d| words!["SELECT", d.pick(&["0", "0", "x"])]),
    ("ACL|WHOAMI", 1, |_| words!["ACL", "WHOAMI"]),
    ("COMMAND", 1, |_| words!["COMMAND"]),
    ("COMMAND|COUNT", 1, |_| words!["COMMAND", "COUNT"]),
    ("COMMAND|DOCS", 1, |d| words!["COMMAND", "DOCS", d.pick(&["GET", "ZADD"])]),
    ("COMMAND|GETKEYS", 2, |d| {
        let key = d.any_key();
        match d.below(4) {
            0 => words!["COMMAND", "GETKEYS", "MSET", key, "1", d.any_key(), "2"],
            1 => words!["COMMAND", "GETKEYS", "ZUNIONSTORE", key, "2", d.any_key(), d.any_key()],
            2 => words!["COMMAND", "GETKEYS", "GEORADIUS", key, "1", "2", "3", "km", "STORE", d.any_key()],
            _ => words!["COMMAND", "GETKEYS", "GET", key],
        }
    }),
    ("COMMAND|HELP", 1, |_| words!["COMMAND", "HELP"]),
    ("COMMAND|INFO", 1, |d| words!["COMMAND", "INFO", d.pick(&["get", "SET", "nothing"])]),
    ("COMMAND|LIST", 1, |_| words!["COMMAND", "LIST"]),
    ("CONFIG|GET", 1, |d| words!["CONFIG", "GET", d.pick(&["maxmemory-policy", "save", "appendonly"])]),
    ("CONFIG|HELP", 1, |_| words!["CONFIG", "HELP"]),
    ("DBSIZE", 2, |_| words!["DBSIZE"]),
    ("FLUSHALL", 1, |d| words!["FLUSHALL", d.pick(&["SYNC", "ASYNC", "ODD"])]),
    ("FLUSHDB", 1, |_| words!["FLUSHDB"]),
    ("INFO", 1, |d| words!["INFO", d.pick(&["server", "clients"])]),
    ("MEMORY|HELP", 1, |_| words!["MEMORY", "HELP"]),
    ("MEMORY|USAGE", 1, |d| words!["MEMORY", "USAGE", d.any_key()]),
    ("TIME", 1, |_| words!["TIME"]),
    ("MAS.ACK", 1, |d| words!["MAS.ACK", d.pick(&["LOCAL", "QUEUED"])]),
    ("MAS.AWAIT", 1, |_| words!["MAS.AWAIT", crate::run::TOKEN, "5000"]),
    ("MAS.REGION", 1, |_| words!["MAS.REGION"]),
    ("MAS.STAMP", 1, |d| words!["MAS.STAMP", d.any_key()]),
    ("MAS.TOKEN", 1, |_| words!["MAS.TOKEN"]),
    ("MAS.WAIT", 1, |_| words!["MAS.WAIT", "0", "100"]),
];
