//! How a node of a broker that has several starts (`start`), so that one that lost its data comes back by itself: running nodes
//! forget the one that it was (`forget.erl`), and it becomes a member of every stream (`join.erl`).

/// The files, by name. `start` is a program; it finds the others beside itself.
pub(crate) const FILES: [(&str, &str); 3] = [
    (START, include_str!("start")),
    ("forget.erl", include_str!("forget.erl")),
    ("join.erl", include_str!("join.erl")),
];
/// The program.
pub(crate) const START: &str = "start";

/// What `start` finds in its environment: all nodes, by name, each with the port of its distribution; where clients connect; the file
/// that is there once all nodes have been there.
pub(crate) fn environment(
    nodes: &[(String, u16)],
    listen: (&str, u16),
    formed: &str,
) -> [(&'static str, String); 3] {
    let nodes: Vec<_> = nodes.iter().map(|(name, port)| format!("{name}:{port}")).collect();
    [
        ("NODES", nodes.join(" ")),
        ("LISTEN", format!("{{\"{}\", {}}}", listen.0, listen.1)),
        ("FORMED", formed.to_owned()),
    ]
}
