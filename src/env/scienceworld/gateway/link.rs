//! One authenticated connection to the gateway: a request, then its reply, with a time limit.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::env::scienceworld::error::SimulatorError;
use crate::env::scienceworld::gateway::protocol;
use crate::env::scienceworld::gateway::protocol::{Arg, Fault, Value};

type Outcome<T> = Result<T, SimulatorError>;

const GATEWAY: &str = "GATEWAY_SERVER";

/// Separates the elements of a list that is joined to one text. The simulator's texts contain no
/// control characters but tab and line feed; the number of elements is checked all the same.
const SEPARATOR: &str = "\u{1f}\u{1e}";

/// The address of a gateway and the token for it.
#[derive(Clone)]
pub struct Endpoint {
    /// Loopback address and port.
    pub address: SocketAddr,
    /// The token that the gateway has printed at its start.
    pub token: String,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.address).finish_non_exhaustive()
    }
}

pub(crate) struct Link {
    reader: BufReader<TcpStream>,
    limit: Duration,
    /// Set after a request without a reply: a late reply would be taken for the next one's.
    broken: bool,
    line: Vec<u8>,
}

impl Link {
    /// Connects, presents the token and turns off Nagle's algorithm on both ends.
    pub(crate) fn open(endpoint: &Endpoint, limit: Duration) -> Outcome<Self> {
        let connect =
            |source| SimulatorError::Connect { address: endpoint.address.to_string(), source };
        let socket =
            TcpStream::connect_timeout(&endpoint.address, limit.min(Duration::from_secs(10)))
                .map_err(connect)?;
        socket.set_nodelay(true).map_err(connect)?;
        socket.set_write_timeout(Some(limit)).map_err(connect)?;
        let port = socket.local_addr().map_err(connect)?.port();
        let reader = BufReader::with_capacity(1 << 16, socket);
        let mut link = Self { reader, limit, broken: false, line: Vec::new() };
        link.authenticate(endpoint)?;
        link.disable_remote_delay(port)?;
        Ok(link)
    }

    fn authenticate(&mut self, endpoint: &Endpoint) -> Outcome<()> {
        match self.exchange("authenticate", &protocol::authenticate(&endpoint.token))? {
            Ok(_) => Ok(()),
            Err(fault) => Err(SimulatorError::Refused {
                address: endpoint.address.to_string(),
                reply: format!("{fault:?}"),
            }),
        }
    }

    /// Sets TCP_NODELAY on the gateway's end of this connection, by reflection.
    ///
    /// py4j has no option for it, and without it every reply of 8 KiB or more waits 40 ms for a
    /// delayed acknowledgement. Other connections may open and close meanwhile, so the search is in
    /// a copy of the gateway's list.
    fn disable_remote_delay(&mut self, port: u16) -> Outcome<()> {
        let class = self.reference(GATEWAY, "getClass", &[])?;
        let field = self.reference(&class, "getDeclaredField", &[Arg::Text("connections")])?;
        self.call(&field, "setAccessible", &[Arg::Bool(true)])?;
        let current = self.reference(&field, "get", &[Arg::Ref(GATEWAY)])?;
        let connections = self.reference(&current, "clone", &[])?;
        let count = self.int(&connections, "size", &[])?;
        for index in (0..count as i32).rev() {
            let connection = self.reference(&connections, "get", &[Arg::Int(index)])?;
            let socket = self.reference(&connection, "getSocket", &[])?;
            let ours = self.int(&socket, "getPort", &[])? == i64::from(port);
            if ours {
                self.call(&socket, "setTcpNoDelay", &[Arg::Bool(true)])?;
            }
            self.delete(&socket)?;
            self.delete(&connection)?;
            if ours {
                break;
            }
        }
        [connections, current, field, class].iter().try_for_each(|id| self.delete(id))
    }

    /// Calls `method` on the object `target`. Exceptions become errors and are deleted in the
    /// gateway.
    pub(crate) fn call(&mut self, target: &str, method: &str, args: &[Arg<'_>]) -> Outcome<Value> {
        self.run(method, &protocol::call(target, method, args))
    }

    /// Sends a request and reads the reply; `what` names it in errors.
    pub(crate) fn run(&mut self, what: &str, request: &str) -> Outcome<Value> {
        let message = match self.exchange(what, request)? {
            Ok(value) => return Ok(value),
            Err(Fault::Text(text)) => text,
            Err(Fault::Exception(id)) => self.describe(&id)?,
        };
        Err(SimulatorError::Exception { call: what.into(), message })
    }

    fn describe(&mut self, exception: &str) -> Outcome<String> {
        let text = self.exchange("toString", &protocol::call(exception, "toString", &[]))?;
        self.delete(exception)?;
        Ok(match text {
            Ok(Value::Text(text)) => text,
            other => format!("an exception without text ({other:?})"),
        })
    }

    pub(crate) fn delete(&mut self, id: &str) -> Outcome<()> {
        self.exchange("delete", &protocol::delete(id)).map(|_| ())
    }

    /// Sends the last request of this connection, a deletion, without waiting for the reply.
    pub(crate) fn abandon(&mut self, id: &str) {
        if !self.broken {
            let _ = self.reader.get_mut().write_all(protocol::delete(id).as_bytes());
        }
    }

    pub(crate) fn reference(
        &mut self,
        target: &str,
        method: &str,
        args: &[Arg<'_>],
    ) -> Outcome<String> {
        let value = self.call(target, method, args)?;
        expect_reference(method, value)
    }

    pub(crate) fn int(&mut self, target: &str, method: &str, args: &[Arg<'_>]) -> Outcome<i64> {
        match self.call(target, method, args)? {
            Value::Int(number) => Ok(number),
            other => Err(unexpected(method, "an integer", &other)),
        }
    }

    pub(crate) fn double(&mut self, target: &str, method: &str) -> Outcome<f64> {
        match self.call(target, method, &[])? {
            Value::Double(number) => Ok(number),
            Value::Int(number) => Ok(number as f64),
            other => Err(unexpected(method, "a number", &other)),
        }
    }

    pub(crate) fn boolean(&mut self, target: &str, method: &str) -> Outcome<bool> {
        match self.call(target, method, &[])? {
            Value::Bool(flag) => Ok(flag),
            other => Err(unexpected(method, "a boolean", &other)),
        }
    }

    pub(crate) fn text(&mut self, target: &str, method: &str, args: &[Arg<'_>]) -> Outcome<String> {
        match self.call(target, method, args)? {
            Value::Text(text) => Ok(text),
            other => Err(unexpected(method, "a text", &other)),
        }
    }

    /// Reads a list of texts in at most four round trips, whatever its length.
    pub(crate) fn texts(
        &mut self,
        target: &str,
        method: &str,
        args: &[Arg<'_>],
    ) -> Outcome<Vec<String>> {
        let list = self.reference(target, method, args)?;
        let count = self.int(&list, "size", &[])? as usize;
        let joined = if count == 0 {
            String::new()
        } else {
            self.text("z:java.lang.String", "join", &[Arg::Text(SEPARATOR), Arg::Ref(&list)])?
        };
        self.delete(&list)?;
        let parts: Vec<String> = joined.split(SEPARATOR).take(count).map(str::to_owned).collect();
        let whole = parts.iter().map(String::len).sum::<usize>()
            + SEPARATOR.len() * count.saturating_sub(1);
        if parts.len() != count || whole != joined.len() {
            return Err(SimulatorError::Protocol {
                call: method.into(),
                reason: format!(
                    "expected {count} elements, got {}",
                    joined.split(SEPARATOR).count()
                ),
            });
        }
        Ok(parts)
    }

    /// Reads a list of integers in three round trips.
    pub(crate) fn ints(
        &mut self,
        target: &str,
        method: &str,
        args: &[Arg<'_>],
    ) -> Outcome<Vec<i64>> {
        let list = self.reference(target, method, args)?;
        let text = self.text(&list, "toString", &[])?;
        self.delete(&list)?;
        text.trim_matches(['[', ']'])
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| {
                part.parse().map_err(|_| unexpected(method, "integers", &Value::Text(text.clone())))
            })
            .collect()
    }

    fn exchange(&mut self, what: &str, request: &str) -> Outcome<Result<Value, Fault>> {
        if self.broken {
            let source = std::io::Error::from(std::io::ErrorKind::NotConnected);
            return Err(SimulatorError::Broken { call: what.into(), source });
        }
        self.broken = true;
        let line = self.round_trip(request).map_err(|source| self.failure(what, source))?;
        let reply = protocol::decode(&line)
            .map_err(|reason| SimulatorError::Protocol { call: what.into(), reason })?;
        self.broken = false;
        Ok(reply)
    }

    fn failure(&self, what: &str, source: std::io::Error) -> SimulatorError {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        if matches!(source.kind(), TimedOut | WouldBlock) {
            return SimulatorError::Timeout {
                call: what.into(),
                seconds: self.limit.as_secs_f64(),
            };
        }
        SimulatorError::Broken { call: what.into(), source }
    }

    fn round_trip(&mut self, request: &str) -> std::io::Result<String> {
        self.reader.get_mut().write_all(request.as_bytes())?;
        let deadline = Instant::now() + self.limit;
        self.line.clear();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            self.reader.get_ref().set_read_timeout(Some(left))?;
            let chunk = match self.reader.fill_buf() {
                Ok([]) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(chunk) => chunk,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = chunk.iter().position(|&byte| byte == b'\n');
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.line.extend_from_slice(&chunk[..end.unwrap_or(used)]);
            self.reader.consume(used);
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                return String::from_utf8(line)
                    .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e));
            }
        }
    }
}

pub(crate) fn expect_reference(call: &str, value: Value) -> Outcome<String> {
    match value {
        Value::Ref(id) => Ok(id),
        other => Err(unexpected(call, "an object", &other)),
    }
}

fn unexpected(call: &str, wanted: &str, got: &Value) -> SimulatorError {
    let got: String = format!("{got:?}").chars().take(120).collect();
    SimulatorError::Protocol { call: call.into(), reason: format!("expected {wanted}, got {got}") }
}
