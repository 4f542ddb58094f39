//! masctl
fn main() {}
