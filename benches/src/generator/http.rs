//! As much of HTTP/1.1 as WHIP, WHEP and Janus' API need: one request, one answer, one connection.

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// How long a server may take to answer; Janus holds a poll for up to 30 s.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(40);
/// Longest body that is read.
const BODY_BYTES_MAX: u64 = 4 << 20;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<String>,
    /// The body, as text.
    pub body: String,
}

/// Sends a request to an `http:` URL and waits for its answer.
///
/// # Errors
/// When there is no answer, or it cannot be read. A status is no error.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not an http: URL"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let mut stream = TcpStream::connect(&address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    let mut text = format!("{method} /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(text.as_bytes())?;
    read_answer(BufReader::new(stream)).with_context(|| format!("{method} {url}"))
}

fn read_answer(mut reader: BufReader<TcpStream>) -> Result<Answer> {
    let status = line(&mut reader)?;
    let status: u16 =
        status.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status line")?;
    let (mut length, mut chunked, mut location) = (None, false, None);
    loop {
        let line = line(&mut reader)?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse::<u64>().ok(),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "location" => location = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = line(&mut reader)?;
            let size = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
            ensure!(body.len() as u64 + size <= BODY_BYTES_MAX, "the body is too long");
            (&mut reader).take(size).read_to_end(&mut body)?;
            line(&mut reader)?;
            if size == 0 {
                break;
            }
        }
    } else {
        reader.take(length.unwrap_or(BODY_BYTES_MAX).min(BODY_BYTES_MAX)).read_to_end(&mut body)?;
    }
    Ok(Answer { status, location, body: String::from_utf8_lossy(&body).into_owned() })
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        bail!("the connection ended within the answer");
    }
    Ok(line.trim_end().to_owned())
}
