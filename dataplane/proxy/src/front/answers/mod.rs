//! Commands that the proxy answers itself: about the connection, about itself, and about the store.

mod command;
mod connection;
mod info;
mod store;

use mas_commands::Command;

use super::dispatch::Flow;
use super::state::State;
use crate::resp::encode;
use crate::resp::request::Request;

/// Answers a request whose routing is `Proxy`. Arity and authentication were checked.
pub(super) fn answer(state: &mut State, key: u32, command: &'static Command, request: &Request<'_>) -> Flow {
    let mut ask = Ask { state, key, request };
    let flow = match command.name {
        "PING" => ask.ping(),
        "ECHO" => ask.echo(),
        "QUIT" => ask.quit(),
        "RESET" => ask.reset(),
        "SELECT" => ask.select(),
        "AUTH" => ask.auth(),
        "HELLO" => ask.hello(),
        "TIME" => ask.time(),
        "ACL|WHOAMI" => ask.who_am_i(),
        "CLIENT|ID" => ask.client_id(),
        "CLIENT|GETNAME" => ask.client_getname(),
        "CLIENT|SETNAME" => ask.client_setname(),
        "CLIENT|SETINFO" => ask.client_setinfo(),
        "CLIENT|INFO" => ask.client_info(),
        "CLIENT|LIST" => ask.client_list(),
        "CLIENT|NO-EVICT" | "CLIENT|NO-TOUCH" => ask.client_switch(),
        "COMMAND" => ask.command_all(),
        "COMMAND|COUNT" => ask.command_count(),
        "COMMAND|DOCS" => ask.command_docs(),
        "COMMAND|GETKEYS" => ask.command_getkeys(),
        "COMMAND|INFO" => ask.command_info(),
        "COMMAND|LIST" => ask.command_list(),
        "CONFIG|GET" => ask.config_get(),
        "INFO" => ask.info(),
        "MAS.ACK" => ask.ack(),
        "MAS.FORWARD" => ask.forward(),
        "MAS.REGION" => ask.region(),
        "MAS.TOKEN" => ask.token(),
        "MAS.AWAIT" => ask.await_token(),
        "MAS.WAIT" => ask.wait_regions(),
        name => match name.strip_suffix("|HELP") {
            Some(container) => ask.help(container),
            None => ask.state.refuse(
                ask.key,
                &format!("ERR wrong number of arguments for '{}' command", name.to_ascii_lowercase()),
            ),
        },
    };
    if flow == Flow::Next {
        state.counters.call(command.index);
    }
    flow
}

/// One request that the proxy answers.
struct Ask<'a, 'r> {
    state: &'a mut State,
    key: u32,
    request: &'a Request<'r>,
}

impl Ask<'_, '_> {
    fn arg(&self, i: usize) -> &[u8] {
        mas_commands::Args::arg(self.request, i)
    }

    fn count(&self) -> usize {
        mas_commands::Args::count(self.request)
    }

    fn resp3(&mut self) -> bool {
        self.state.clients.get(self.key).is_some_and(|client| client.resp3)
    }

    fn ok(&mut self) -> Flow {
        self.state.reply(self.key, b"+OK\r\n")
    }

    fn error(&mut self, text: &str) -> Flow {
        self.state.refuse(self.key, text)
    }

    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Flow {
        let mut out = Vec::new();
        write(&mut out);
        self.state.reply(self.key, &out)
    }

    /// Whether everything that this connection asked before is answered.
    fn all_answered(&mut self) -> bool {
        self.state.clients.get(self.key).is_none_or(|client| client.session.is_idle())
    }

    /// Lists the subcommands of a container, from the table.
    fn help(&mut self, container: &str) -> Flow {
        let prefix = format!("{container}|");
        let lines: Vec<String> = mas_commands::all()
            .iter()
            .filter_map(|command| {
                let sub = command.name.strip_prefix(&prefix)?;
                Some(match command.support {
                    mas_commands::Support::Yes => sub.to_owned(),
                    mas_commands::Support::No(why) => format!("{sub} (not supported: {why})"),
                })
            })
            .collect();
        let head = format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
        self.write(|out| {
            encode::array(out, lines.len() + 1);
            for line in std::iter::once(&head).chain(&lines) {
                encode::simple(out, line);
            }
        })
    }
}

/// A number in decimal, as clients write timeouts and counts.
fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
