//! What real clients say when they connect: who they are, which version of RESP, which database.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Ask;
use crate::front::clients::{Client, Closing, Extra};
use crate::front::counters::Count;
use crate::front::dispatch::Flow;
use crate::resp::encode;

/// The version of Redis whose commands and replies these are.
pub(super) const REDIS_VERSION: &str = "7.0.15";
/// Longest name that a client may give itself.
const NAME_BYTES_MAX: usize = 256;

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

impl Ask<'_, '_> {
    pub(super) fn ping(&mut self) -> Flow {
        match self.count() {
            1 => self.state.reply(self.key, b"+PONG\r\n"),
            2 => self.echo(),
            _ => self.error("ERR wrong number of arguments for 'ping' command"),
        }
    }

    pub(super) fn echo(&mut self) -> Flow {
        let mut out = Vec::new();
        encode::bulk(&mut out, self.arg(1));
        self.state.reply(self.key, &out)
    }

    pub(super) fn quit(&mut self) -> Flow {
        self.ok();
        if let Some(client) = self.client() {
            client.closing = Closing::WhenAnswered;
        }
        Flow::End
    }

    pub(super) fn reset(&mut self) -> Flow {
        if !self.all_answered() {
            return Flow::AfterAnswers;
        }
        let authenticated = self.state.settings.credentials.is_none();
        if let Some(client) = self.client() {
            client.resp3 = false;
            client.extra = None;
            client.authenticated = authenticated;
        }
        self.state.reply(self.key, b"+RESET\r\n")
    }

    pub(super) fn select(&mut self) -> Flow {
        match super::number(self.arg(1)) {
            Some(0) => self.ok(),
            Some(_) => self.error(
                "ERR 'SELECT' is not supported by a multi-active store: there is one database, number 0",
            ),
            None => self.error("ERR value is not an integer or out of range"),
        }
    }

    pub(super) fn auth(&mut self) -> Flow {
        match self.count() {
            2 => match self.log_in(b"default", 1) {
                Ok(()) => self.ok(),
                Err(error) => self.error(error),
            },
            3 => {
                let username = self.arg(1).to_vec();
                match self.log_in(&username, 2) {
                    Ok(()) => self.ok(),
                    Err(error) => self.error(error),
                }
            }
            _ => self.error("ERR syntax error"),
        }
    }

    fn log_in(&mut self, username: &[u8], password: usize) -> Result<(), &'static str> {
        let Some(credentials) = &self.state.settings.credentials else {
            // As Redis: with a user name and no password set, anything goes for the default user.
            return if self.count() == 2 {
                Err("ERR AUTH <password> called without any password configured for the default user. \
                     Are you sure your configuration is correct?")
            } else if username == b"default" {
                Ok(())
            } else {
                Err(WRONG_PASSWORD)
            };
        };
        if !credentials.accept(username, self.arg(password)) {
            self.state.counters.count(Count::AuthFailures);
            return Err(WRONG_PASSWORD);
        }
        if let Some(client) = self.client() {
            client.authenticated = true;
        }
        Ok(())
    }

    pub(super) fn hello(&mut self) -> Flow {
        // The version decides how everything behind it is answered, and by which connection to the engines.
        if !self.all_answered() {
            return Flow::AfterAnswers;
        }
        let mut resp3 = self.resp3();
        let mut at = 1;
        if self.count() > 1 {
            resp3 = match super::number(self.arg(1)) {
                Some(2) => false,
                Some(3) => true,
                Some(_) => return self.error("NOPROTO unsupported protocol version"),
                None => return self.error("ERR Protocol version is not an integer or out of range"),
            };
            at = 2;
        }
        let mut name = None;
        while at < self.count() {
            if self.arg(at).eq_ignore_ascii_case(b"AUTH") && at + 2 < self.count() {
                let username = self.arg(at + 1).to_vec();
                if let Err(error) = self.log_in(&username, at + 2) {
                    return self.error(error);
                }
                at += 3;
            } else if self.arg(at).eq_ignore_ascii_case(b"SETNAME") && at + 1 < self.count() {
                match valid_name(self.arg(at + 1)) {
                    Ok(valid) => name = Some(valid.to_vec()),
                    Err(error) => return self.error(error),
                }
                at += 2;
            } else {
                let option = String::from_utf8_lossy(self.arg(at)).into_owned();
                return self.error(&format!("ERR Syntax error in HELLO option '{option}'"));
            }
        }
        let Some(client) = self.client() else { return Flow::End };
        if !client.authenticated {
            return self.error(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                 the same time",
            );
        }
        client.resp3 = resp3;
        if let Some(name) = name {
            extra(client).name = name;
        }
        let id = client.id as i64;
        self.write(|out| {
            encode::map(out, resp3, 7);
            for (field, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
                encode::bulk(out, field.as_bytes());
                encode::bulk(out, value.as_bytes());
            }
            encode::bulk(out, b"proto");
            encode::integer(out, if resp3 { 3 } else { 2 });
            encode::bulk(out, b"id");
            encode::integer(out, id);
            for (field, value) in [("mode", "standalone"), ("role", "master")] {
                encode::bulk(out, field.as_bytes());
                encode::bulk(out, value.as_bytes());
            }
            encode::bulk(out, b"modules");
            encode::array(out, 0);
        })
    }

    pub(super) fn time(&mut self) -> Flow {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.write(|out| {
            encode::array(out, 2);
            encode::bulk(out, now.as_secs().to_string().as_bytes());
            encode::bulk(out, now.subsec_micros().to_string().as_bytes());
        })
    }

    pub(super) fn who_am_i(&mut self) -> Flow {
        let name =
            self.state.settings.credentials.as_ref().map_or("default".to_owned(), |c| c.username.clone());
        self.write(|out| encode::bulk(out, name.as_bytes()))
    }

    pub(super) fn client_id(&mut self) -> Flow {
        let id = self.client().map_or(0, |client| client.id as i64);
        self.write(|out| encode::integer(out, id))
    }

    pub(super) fn client_getname(&mut self) -> Flow {
        let name = self.client().and_then(|client| client.extra.as_ref()).map(|extra| extra.name.clone());
        let resp3 = self.resp3();
        self.write(|out| match name.filter(|name| !name.is_empty()) {
            Some(name) => encode::bulk(out, &name),
            None => encode::null(out, resp3),
        })
    }

    pub(super) fn client_setname(&mut self) -> Flow {
        let name = match valid_name(self.arg(2)) {
            Ok(name) => name.to_vec(),
            Err(error) => return self.error(error),
        };
        if let Some(client) = self.client() {
            extra(client).name = name;
        }
        self.ok()
    }

    pub(super) fn client_setinfo(&mut self) -> Flow {
        let value = match valid_name(self.arg(3)) {
            Ok(value) => value.to_vec(),
            Err(_) => {
                return self.error(
                    "ERR lib-name and lib-ver cannot contain spaces, newlines or special characters.",
                );
            }
        };
        let (is_name, is_version) =
            (self.arg(2).eq_ignore_ascii_case(b"LIB-NAME"), self.arg(2).eq_ignore_ascii_case(b"LIB-VER"));
        if !is_name && !is_version {
            return self.error("ERR Unrecognized option for CLIENT SETINFO; use LIB-NAME or LIB-VER");
        }
        if let Some(client) = self.client() {
            let extra = extra(client);
            *(if is_name { &mut extra.lib_name } else { &mut extra.lib_version }) = value;
        }
        self.ok()
    }

    /// Only the client itself: a client has no business with the others, who may be on another proxy anyway.
    pub(super) fn client_info(&mut self) -> Flow {
        let resp3 = self.resp3();
        let line = self.client().map(|client| {
            let text =
                |bytes: Option<&Vec<u8>>| String::from_utf8_lossy(bytes.map_or(&[][..], |b| b)).into_owned();
            let extra = client.extra.as_deref();
            format!(
                "id={} addr={} name={} db=0 resp={} lib-name={} lib-ver={}\n",
                client.id,
                client.peer,
                text(extra.map(|e| &e.name)),
                if client.resp3 { 3 } else { 2 },
                text(extra.map(|e| &e.lib_name)),
                text(extra.map(|e| &e.lib_version)),
            )
        });
        self.write(|out| encode::text(out, resp3, &line.unwrap_or_default()))
    }

    pub(super) fn client_list(&mut self) -> Flow {
        if self.count() > 2 {
            self.refuse_filter(&[b"TYPE", b"ID"], "CLIENT LIST")
        } else {
            self.client_info()
        }
    }

    pub(super) fn client_switch(&mut self) -> Flow {
        if self.arg(2).eq_ignore_ascii_case(b"ON") || self.arg(2).eq_ignore_ascii_case(b"OFF") {
            self.ok()
        } else {
            self.error("ERR syntax error")
        }
    }

    pub(super) fn client(&mut self) -> Option<&mut Client> {
        self.state.clients.get(self.key)
    }
}

/// The rarely used part of a client, made when first needed.
pub(super) fn extra(client: &mut Client) -> &mut Extra {
    client.extra.get_or_insert_default()
}

fn valid_name(name: &[u8]) -> Result<&[u8], &'static str> {
    if name.len() > NAME_BYTES_MAX {
        return Err("ERR Client names cannot be longer than 256 bytes.");
    }
    if name.iter().all(|b| (b'!'..=b'~').contains(b)) {
        Ok(name)
    } else {
        Err("ERR Client names cannot contain spaces, newlines or special characters.")
    }
}
