//! One question and its answer: by UDP, by TCP where the answer is too long for that (RFC 1035 section 4.2, RFC 7766).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// What fits through every network in one packet (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1_232;
/// How many packets that are no answer are looked at.
const MAX_STRAY: usize = 64;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the server does instead, such as `does not answer`.
    pub why: String,
    /// Whether this machine has no way to there.
    pub no_route: bool,
}

impl Failure {
    pub(crate) fn silent() -> Self {
        Self::of("does not answer")
    }

    fn of(why: impl Into<String>) -> Self {
        Self { why: why.into(), no_route: false }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let no_route = matches!(
            error.kind(),
            io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::AddrNotAvailable
                // A link-local address is one of each network: nobody can say which.
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::Unsupported
        ) || error.raw_os_error() == Some(AFNOSUPPORT);
        let why = match error.kind() {
            _ if no_route => "can't be reached from here".to_owned(),
            io::ErrorKind::ConnectionRefused => "is not there: nobody listens on its port".to_owned(),
            io::ErrorKind::TimedOut => "does not answer".to_owned(),
            io::ErrorKind::UnexpectedEof => "ends the connection without an answer".to_owned(),
            _ => format!("can't be asked: {error}"),
        };
        Self { why, no_route }
    }
}

/// A kernel without IPv6 has no name for this in the standard library.
const AFNOSUPPORT: i32 = 97;

/// Asks one server once; `recurse` for a resolver.
pub(crate) async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    recurse: bool,
    limit: Duration,
) -> Result<Message, Failure> {
    let mut question = Message::query();
    question.metadata.recursion_desired = recurse;
    question.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    question.set_edns(edns);
    let bytes = question.to_vec().map_err(|e| Failure::of(format!("can't be asked: {e}")))?;

    let answer = within(limit, by_udp(server, &question, &bytes)).await?;
    if !answer.truncation {
        return Ok(answer);
    }
    let answer = within(limit, by_tcp(server, &bytes)).await?;
    match Message::from_vec(&answer) {
        Ok(answer) if answers(&answer, &question) => Ok(answer),
        _ => Err(Failure::of("answers with nonsense")),
    }
}

/// Sends a message by TCP and returns what comes back.
pub(crate) async fn by_tcp(server: SocketAddr, message: &[u8]) -> Result<Vec<u8>, Failure> {
    let len =
        u16::try_from(message.len()).map_err(|_| Failure::of("can't be asked: the message is too long"))?;
    let mut stream = TcpStream::connect(server).await?;
    // In one piece: some servers take the length and the rest only together.
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&len.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The response code, as the standards name it.
pub(crate) fn words(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::NotAuth => "NOTAUTH".to_owned(),
        ResponseCode::NotZone => "NOTZONE".to_owned(),
        other => format!("with error {}", u16::from(other)),
    }
}

async fn by_udp(server: SocketAddr, question: &Message, bytes: &[u8]) -> Result<Message, Failure> {
    let local = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    // A port of its own for every question, and connected: only that server's packets come in.
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4_096];
    for _ in 0..MAX_STRAY {
        let len = socket.recv(&mut buffer).await?;
        // Somebody who guesses the port does not get to end the wait for the true answer.
        if let Ok(answer) = Message::from_vec(&buffer[..len])
            && answers(&answer, question)
        {
            return Ok(answer);
        }
    }
    Err(Failure::of("answers with nonsense"))
}

fn answers(answer: &Message, question: &Message) -> bool {
    let same_question = match (answer.queries.as_slice(), question.queries.as_slice()) {
        ([a], [q]) => a.name == q.name && a.query_type == q.query_type && a.query_class == q.query_class,
        // A server that could not read the question does not repeat it.
        ([], _) => answer.response_code != ResponseCode::NoError || answer.truncation,
        _ => false,
    };
    answer.id == question.id
        && answer.message_type == MessageType::Response
        && answer.op_code == question.op_code
        && same_question
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(Failure::silent()))
}
