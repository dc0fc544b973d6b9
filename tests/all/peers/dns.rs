//! Questions to a name server, without a DNS library: what the client under test uses must not vouch for itself.

use std::{net::SocketAddr, process::Output, time::Duration};

use tokio::{net::UdpSocket, process::Command};

use super::bind::Zone;

pub const A: u16 = 1;
pub const SOA: u16 = 6;
pub const TXT: u16 = 16;

/// The whole answer over UDP (RFC 1035 section 4.1), or `None` if there was none within a second.
pub async fn ask(server: SocketAddr, name: &str, kind: u16) -> Option<Vec<u8>> {
    const ID: [u8; 2] = [0x5a, 0xa5];
    // One question, recursion desired.
    let mut query = [&ID[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.trim_end_matches('.').split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&[kind.to_be_bytes(), 1_u16.to_be_bytes()].concat());
    let asking = async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.ok()?;
        socket.connect(server).await.ok()?;
        socket.send(&query).await.ok()?;
        let mut answer = vec![0; 4096];
        let length = socket.recv(&mut answer).await.ok()?;
        answer.truncate(length);
        answer.starts_with(&ID).then_some(answer)
    };
    tokio::time::timeout(Duration::from_secs(1), asking).await.ok()?
}

/// How many records the answer's first section has.
pub fn answers(answer: &[u8]) -> u16 {
    u16::from_be_bytes([answer[6], answer[7]])
}

/// Whether these bytes are in the answer: what a record holds, after its length.
pub fn holds(answer: &[u8], data: &[u8]) -> bool {
    answer.windows(data.len()).any(|window| window == data)
}

/// Whether the server answers for all of these zones.
pub async fn answers_for(server: SocketAddr, zones: &[Zone]) -> bool {
    for zone in zones {
        let answer = ask(server, zone.name, SOA).await;
        if answer.is_none_or(|answer| answers(&answer) != 1) {
            return false;
        }
    }
    true
}

/// What `dig` finds at this server: the records of this kind, as in a zone file, sorted.
pub async fn dig(server: SocketAddr, name: &str, kind: &str) -> Vec<String> {
    let mut dig = Command::new("dig");
    dig.arg(format!("@{}", server.ip())).arg("-p").arg(server.port().to_string());
    let output = dig.args(["+short", "+norecurse", name, kind]).kill_on_drop(true).output().await.unwrap();
    let mut lines: Vec<_> = succeeded(&output).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What the program printed, or why it failed.
pub fn succeeded(output: &Output) -> Result<String, String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
}
