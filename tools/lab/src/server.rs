//! HTTP and HTTPS on loopback: the API, and the control endpoint on a port of its own.

use crate::control::{Control, Shared, answer};
use crate::refusal::Refusal;
use crate::signature;
use crate::world::{Reply, refused};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Longest body: user data of 1 MiB in base64 fits.
const BODY_BYTES_MAX: usize = 2 << 20;

/// The client gets no answer: the connection ends.
#[derive(Debug, thiserror::Error)]
#[error("the answer was lost")]
struct Lost;

/// Which of the two endpoints.
#[derive(Clone, Copy)]
pub(crate) enum Door {
    Api,
    Control,
}

/// Accepts until the runtime ends.
pub(crate) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    door: Door,
    tls: Option<TlsAcceptor>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, tls) = (shared.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(stream, shared, door).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared, door).await;
                    }
                }
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    shared: Arc<Shared>,
    door: Door,
) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { handle(request, shared, door).await }
    });
    // How a connection ends is the client's business; a lost answer ends it on purpose.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn handle(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    door: Door,
) -> Result<Response<Full<Bytes>>, Lost> {
    let method = request.method().clone();
    let uri = request.uri().clone();
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX)
        .collect()
        .await
        .map_err(|_| Lost)?
        .to_bytes();
    // Disks are made and copied inside: not on the thread that serves all the others.
    let answered = tokio::task::spawn_blocking(move || match door {
        Door::Control => {
            let (status, body) = answer(&Control(shared), method.as_str(), uri.path(), &body);
            json_response(status, &body)
        }
        Door::Api => api(
            &shared,
            &method,
            uri.path(),
            uri.query().unwrap_or_default(),
            &body,
        ),
    });
    answered.await.map_err(|_| Lost)?
}

fn api(
    shared: &Shared,
    method: &Method,
    path: &str,
    query: &str,
    body: &[u8],
) -> Result<Response<Full<Bytes>>, Lost> {
    if path.trim_end_matches('/') != "/client/api" {
        return plain(
            404,
            "text/html",
            "<html><body>HTTP ERROR 404 Not Found</body></html>",
        );
    }
    let pairs = merge(decode(query.as_bytes()), decode(body));
    let get = |wanted: &str| {
        pairs
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.as_str())
    };
    if get("response") != Some("json") {
        // Contract 1: the default is XML, and a client that forgot to ask for JSON must notice.
        return plain(
            200,
            "text/xml; charset=UTF-8",
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><response/>",
        );
    }
    let command = get("command").unwrap_or_default();
    let reply = match admit(shared, method, command, &pairs) {
        Err(refusal) => refused(command, &refusal),
        Ok(()) => shared.with(|world, now, hardware| world.call(now, &pairs, hardware)),
    };
    match reply {
        Reply::Json { status, body } => json_response(status, &body),
        Reply::Proxy { status } => plain(
            status,
            "text/html",
            "<html><body>the server behind this proxy does not answer</body></html>",
        ),
        Reply::Lost => Err(Lost),
    }
}

fn admit(
    shared: &Shared,
    method: &Method,
    command: &str,
    pairs: &[(String, String)],
) -> Result<(), Refusal> {
    let (enforce, now) = shared.rules();
    // Contract 1: every command not starting with get, list, query or find must be POSTed.
    let reads = ["get", "list", "query", "find"]
        .iter()
        .any(|start| command.starts_with(start));
    if enforce && !reads && method != Method::POST {
        return Err(Refusal::bad_request(format!(
            "State changing command {command} needs the POST method"
        )));
    }
    signature::check(&shared.keys, pairs, now, enforce)
}

/// Contract 1: body and query are merged, and the query wins where both have a name.
fn merge(query: Vec<(String, String)>, body: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut pairs = query;
    for (name, value) in body {
        if !pairs.iter().any(|(held, _)| *held == name) {
            pairs.push((name, value));
        }
    }
    pairs
}

/// Reads `application/x-www-form-urlencoded`.
fn decode(form: &[u8]) -> Vec<(String, String)> {
    form.split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let cut = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = cut.map_or((pair, &pair[..0]), |at| (&pair[..at], &pair[at + 1..]));
            (decode_part(name), decode_part(value))
        })
        .collect()
}

fn decode_part(part: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let code = tail
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, code) {
            (b'+', _) => bytes.push(b' '),
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn json_response(status: u16, body: &Value) -> Result<Response<Full<Bytes>>, Lost> {
    let mut response = plain(status, "application/json; charset=UTF-8", &body.to_string())?;
    // Contract 1: errors repeat their text in X-Description.
    let text = body
        .as_object()
        .and_then(|held| held.values().next())
        .and_then(|error| error["errortext"].as_str());
    if let Some(value) = text.and_then(|text| text.parse().ok()) {
        response.headers_mut().insert("X-Description", value);
    }
    Ok(response)
}

fn plain(status: u16, kind: &str, body: &str) -> Result<Response<Full<Bytes>>, Lost> {
    Response::builder()
        .status(status)
        .header("Content-Type", kind)
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .map_err(|_| Lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_decode_and_the_query_wins() {
        let pairs = merge(decode(b"a=1&b=x+y%2Bz"), decode(b"a=2&c=%C3%BC&d"));
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(pairs, [("a", "1"), ("b", "x y+z"), ("c", "ü"), ("d", "")]);
    }
}
