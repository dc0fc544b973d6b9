//! As much of HTTP/1.1 as the tests' own ACME server needs, and the ways to do it badly.

use std::{io, sync::atomic::Ordering, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Answer, Request, Shared, Way};

/// Between two drops.
const DROP: Duration = Duration::from_secs(5);

/// Answers what comes on this connection.
pub async fn serve(mut io: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) {
    let mut read = Vec::new();
    while let Some(request) = next(&mut io, &mut read).await {
        let answer = shared.answer(&request).await;
        let head = request.method == "HEAD";
        if !matches!(send(&mut io, &answer, head, shared).await, Ok(true)) {
            return;
        }
    }
}

async fn next(io: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        more(io, read).await?;
    };
    let head = String::from_utf8(read.drain(..end + 4).collect()).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut request = Request { method, path, headers, body: Vec::new() };
    let length: usize = request.header("content-length").parse().unwrap_or(0);
    while read.len() < length {
        more(io, read).await?;
    }
    request.body = read.drain(..length).collect();
    Some(request)
}

async fn more(io: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) -> Option<()> {
    (io.read_buf(read).await.ok()? > 0).then_some(())
}

/// Whether the connection is good for another request.
async fn send(
    io: &mut (impl AsyncWrite + Unpin),
    answer: &Answer,
    head: bool,
    shared: &Shared,
) -> io::Result<bool> {
    let length = match answer.way {
        Way::Times(times) => answer.body.len() * times,
        _ => answer.body.len(),
    };
    let mut text = format!("HTTP/1.1 {} Whatever\r\n", answer.status).into_bytes();
    for (name, value) in &answer.headers {
        text.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    match answer.way {
        Way::Endless => text.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
        _ => text.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes()),
    }
    let body = if head { &[][..] } else { &answer.body };
    match answer.way {
        Way::Cut => return Ok(false),
        Way::DripHead => {
            drip(io, &text, shared).await?;
            return Ok(false);
        }
        _ => io.write_all(&text).await?,
    }
    let taken = |octets: usize| shared.taken.fetch_add(octets, Ordering::SeqCst);
    match answer.way {
        Way::CutHalf => {
            io.write_all(&body[..body.len() / 2]).await?;
            io.flush().await?;
            return Ok(false);
        }
        Way::Drip => {
            drip(io, body, shared).await?;
            return Ok(false);
        }
        Way::Endless if !body.is_empty() => loop {
            io.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await?;
            io.write_all(body).await?;
            io.write_all(b"\r\n").await?;
            taken(body.len());
        },
        Way::Times(times) => {
            for _ in 0..times {
                io.write_all(body).await?;
                taken(body.len());
            }
        }
        _ => {
            io.write_all(body).await?;
            taken(body.len());
        }
    }
    io.flush().await?;
    Ok(true)
}

async fn drip(io: &mut (impl AsyncWrite + Unpin), text: &[u8], shared: &Shared) -> io::Result<()> {
    for octet in text {
        io.write_all(&[*octet]).await?;
        io.flush().await?;
        shared.taken.fetch_add(1, Ordering::SeqCst);
        shared.dripping.notify_one();
        tokio::time::sleep(DROP).await;
    }
    Ok(())
}
