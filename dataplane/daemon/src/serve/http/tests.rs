//! The routers without sockets: what a caller gets for what it asks.

use axum::body::Body as HttpBody;
use axum::http::{Request as HttpRequest, Response as HttpResponse};
use control::{ErrorAnswer, ErrorBody, ExportList, Status, TransferView, TunableList};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use sys::net::PeerCredentials;
use tower::ServiceExt;

use super::*;
use crate::serve::ServeArgs;
use crate::serve::config::Config;

/// A server without listeners: one export that keeps nothing, one shard.
fn context() -> Arc<Context> {
    use clap::Parser;
    let words = [
        "x",
        "serve",
        "--nbd-unix",
        "/unused",
        "--shards",
        "1",
        "--runtime",
        "epoll",
    ];
    let cli = crate::cli::Cli::try_parse_from(words).unwrap();
    let crate::cli::Verb::Serve(args) = cli.verb else {
        unreachable!()
    };
    let args: ServeArgs = *args;
    crate::serve::start(Config::load(&args).unwrap()).unwrap()
}

const OWNER: u32 = 0;
const STRANGER: u32 = 4_242;

async fn ask(router: &Router, uid: u32, method: &str, path: &str, body: &str) -> (u16, String) {
    let peer = Caller(Some(PeerCredentials {
        pid: 1,
        uid,
        gid: 4_242,
    }));
    let request = HttpRequest::builder()
        .method(method)
        .uri(path)
        .extension(ConnectInfo(peer))
        .body(HttpBody::from(body.to_owned()))
        .unwrap();
    let response: HttpResponse<HttpBody> = router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20)
        .await
        .unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

fn answer<T: DeserializeOwned>(context: &Context, text: &str) -> T {
    let answer: control::Answer<T> =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!((answer.api, &answer.boot_id), (1, &context.boot_id));
    answer.body
}

fn error(context: &Context, text: &str) -> ErrorBody {
    answer::<ErrorAnswer>(context, text).error
}

fn both(context: &Arc<Context>) -> (Router, Router) {
    (
        with_access(context, exports_router(), Access::Owner),
        with_access(context, transfers_router(), Access::Group(50)),
    )
}

#[tokio::test]
async fn every_answer_carries_version_and_boot_id() {
    let context = context();
    let (exports, transfers) = both(&context);
    for router in [&exports, &transfers] {
        let (status, text) = ask(router, OWNER, "GET", "/v1/status", "").await;
        assert_eq!(status, 200);
        assert_eq!(answer::<Status>(&context, &text).shards, 1);
        let (_, text) = ask(router, OWNER, "GET", "/v1/exports", "").await;
        assert!(answer::<ExportList>(&context, &text).exports.is_empty());
    }
}

/// One of the two sockets.
#[derive(Debug, Clone, Copy)]
enum Socket {
    Exports,
    Transfers,
}

/// Socket, method, path, body; status and kind of the error.
type Refusal = (
    Socket,
    &'static str,
    &'static str,
    &'static str,
    u16,
    ErrorKind,
);

const PUT: &str =
    r#"{"device": "/nonexistent", "mode": "rw", "client_fingerprints": ["any"], "fence": 1}"#;
const PUT_NULL: &str =
    r#"{"device": "null:1", "mode": "rw", "client_fingerprints": ["any"], "fence": 1}"#;

#[rustfmt::skip]
const REFUSALS: [Refusal; 17] = [
    (Socket::Exports, "GET", "/v2", "", 404, ErrorKind::NotFound),
    (Socket::Exports, "POST", "/v1/exports/a", "", 405, ErrorKind::MethodNotAllowed),
    (Socket::Exports, "PUT", "/v1/exports/a", "{", 400, ErrorKind::BadRequest),
    (Socket::Exports, "PUT", "/v1/exports/a", "{}", 400, ErrorKind::BadRequest),
    (Socket::Exports, "PUT", "/v1/exports/a%2Fb", PUT, 400, ErrorKind::BadRequest),
    (Socket::Exports, "PUT", "/v1/exports/a%FF", PUT, 400, ErrorKind::BadRequest),
    (Socket::Exports, "PUT", "/v1/exports/a", PUT_NULL, 400, ErrorKind::BadRequest),
    (Socket::Exports, "PUT", "/v1/exports/a", PUT, 500, ErrorKind::Device),
    (Socket::Exports, "DELETE", "/v1/exports/a?fences=1", "", 400, ErrorKind::BadRequest),
    (Socket::Exports, "POST", "/v1/exports/a/flush", "", 404, ErrorKind::NotFound),
    // The two sockets are for different people.
    (Socket::Exports, "GET", "/v1/transfers", "", 404, ErrorKind::NotFound),
    (Socket::Transfers, "PUT", "/v1/exports/a", PUT, 404, ErrorKind::NotFound),
    (Socket::Transfers, "PUT", "/v1/holds/a", PUT, 404, ErrorKind::NotFound),
    (Socket::Transfers, "GET", "/v1/transfers/a", "", 404, ErrorKind::NotFound),
    (Socket::Transfers, "GET", "/v1/transfers/a%20b", "", 400, ErrorKind::BadRequest),
    (Socket::Transfers, "PATCH", "/v1/tunables", r#"{"speed": 1}"#, 400, ErrorKind::Config),
    (Socket::Transfers, "PATCH", "/v1/tunables", r#"{"pin": []}"#, 400, ErrorKind::BadRequest),
];

#[tokio::test]
async fn what_does_not_exist_or_parse_is_told_in_json() {
    let context = context();
    let (exports, transfers) = both(&context);
    for (socket, method, path, body, status, kind) in REFUSALS {
        let router = match socket {
            Socket::Exports => &exports,
            Socket::Transfers => &transfers,
        };
        let (found, text) = ask(router, OWNER, method, path, body).await;
        let error = error(&context, &text);
        assert_eq!(
            (found, error.kind),
            (status, kind),
            "{method} {path}: {text}"
        );
        assert!(!error.remedy.is_empty(), "{text}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_not_read() {
    let context = context();
    let (exports, _) = both(&context);
    let long = " ".repeat(BODY_BYTES_MAX + 1);
    let (status, text) = ask(&exports, OWNER, "PUT", "/v1/exports/a", &long).await;
    assert_eq!(
        (status, error(&context, &text).kind),
        (413, ErrorKind::TooLarge)
    );
}

#[tokio::test]
async fn strangers_are_told_to_go() {
    let context = context();
    let (exports, transfers) = both(&context);
    for router in [&exports, &transfers] {
        let (status, text) = ask(router, STRANGER, "GET", "/v1/status", "").await;
        assert_eq!(
            (status, error(&context, &text).kind),
            (403, ErrorKind::Forbidden)
        );
    }
}

#[tokio::test]
async fn a_fence_decides_who_owns_an_export() {
    let context = context();
    let (exports, _) = both(&context);
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::File::create(&disk)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let body = |mode: &str, fence: u64| {
        let device = disk.display();
        format!(
            r#"{{"device": "{device}", "size_bytes": 1048576, "mode": "{mode}",
                 "client_fingerprints": [], "fence": {fence}}}"#
        )
    };
    let put = async |mode: &str, fence| {
        ask(&exports, OWNER, "PUT", "/v1/exports/d", &body(mode, fence))
            .await
            .0
    };
    assert_eq!(put("rw", 5).await, 201);
    assert_eq!(put("rw", 5).await, 200, "the same again");
    assert_eq!(put("ro", 5).await, 409, "another body");
    assert_eq!(put("rw", 4).await, 409, "a late one");
    assert_eq!(put("ro", 6).await, 201, "a newer one");
    let (_, text) = ask(&exports, OWNER, "POST", "/v1/exports/d/flush", "").await;
    assert_eq!(
        answer::<control::Flushed>(&context, &text).size_bytes,
        1 << 20
    );
    assert_eq!(
        ask(&exports, OWNER, "DELETE", "/v1/exports/d?fence=5", "")
            .await
            .0,
        409
    );
    let (status, text) = ask(&exports, OWNER, "DELETE", "/v1/exports/d?fence=7", "").await;
    assert_eq!(status, 200);
    assert!(answer::<control::ExportRemoved>(&context, &text).flushed);
    let (_, text) = ask(&exports, OWNER, "DELETE", "/v1/exports/d?fence=7", "").await;
    assert!(!answer::<control::ExportRemoved>(&context, &text).was_present);
    assert_eq!(
        put("rw", 6).await,
        409,
        "a late one finds that it is gone for good"
    );
}

#[tokio::test]
async fn a_held_device_is_shared_with_its_export_and_nobody_else() {
    let context = context();
    let (exports, _) = both(&context);
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::File::create(&disk)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let device = disk.display();
    let hold = format!(r#"{{"device": "{device}", "fence": 1}}"#);
    assert_eq!(
        ask(&exports, OWNER, "PUT", "/v1/holds/v", &hold).await.0,
        201
    );
    assert_eq!(
        ask(&exports, OWNER, "PUT", "/v1/holds/v", &hold).await.0,
        200
    );
    assert_eq!(
        ask(&exports, OWNER, "PUT", "/v1/holds/w", &hold).await.0,
        409,
        "held already"
    );
    let put =
        format!(r#"{{"device": "{device}", "mode": "rw", "client_fingerprints": [], "fence": 1}}"#);
    let (status, text) = ask(&exports, OWNER, "PUT", "/v1/exports/d", &put).await;
    assert_eq!(status, 201, "{text}");
    assert!(answer::<control::ExportView>(&context, &text).held);
    assert_eq!(
        ask(&exports, OWNER, "DELETE", "/v1/holds/v", "").await.0,
        409,
        "in use"
    );
    assert_eq!(
        ask(&exports, OWNER, "DELETE", "/v1/exports/d", "").await.0,
        200
    );
    let (_, text) = ask(&exports, OWNER, "DELETE", "/v1/holds/v", "").await;
    assert!(answer::<control::HoldRemoved>(&context, &text).was_present);
}

#[tokio::test]
async fn a_device_that_is_not_the_expected_one_is_refused() {
    let context = context();
    let (exports, _) = both(&context);
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::File::create(&disk)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    for expected in [r#""size_bytes": 1"#, r#""serial": "abc""#] {
        let put = format!(
            r#"{{"device": "{}", {expected}, "mode": "rw", "client_fingerprints": [], "fence": 1}}"#,
            disk.display()
        );
        let (status, text) = ask(&exports, OWNER, "PUT", "/v1/exports/d", &put).await;
        assert_eq!(
            (status, error(&context, &text).kind),
            (409, ErrorKind::IdentityMismatch)
        );
    }
    assert_eq!(context.registry.counts(), (0, 0));
}

#[tokio::test]
async fn a_transfer_is_known_by_its_id_and_tells_its_events() {
    let context = context();
    let (_, transfers) = both(&context);
    let body = r#"{"id": "t1", "source": "null:8M", "target": "null:"}"#;
    let (status, _) = ask(&transfers, OWNER, "POST", "/v1/transfers", body).await;
    assert_eq!(status, 201);
    let (status, _) = ask(&transfers, OWNER, "POST", "/v1/transfers", body).await;
    assert_eq!(status, 200, "the same again");
    let other = body.replace("8M", "9M");
    let (status, text) = ask(&transfers, OWNER, "POST", "/v1/transfers", &other).await;
    assert_eq!(
        (status, error(&context, &text).kind),
        (409, ErrorKind::Conflict)
    );
    // The stream ends with the transfer.
    let (_, events) = ask(&transfers, OWNER, "GET", "/v1/transfers/t1/events", "").await;
    assert!(
        events.contains("id: 1\n") || events.contains("id:1\n"),
        "{events}"
    );
    assert!(events.contains(r#""state":"succeeded""#), "{events}");
    let (_, text) = ask(&transfers, OWNER, "GET", "/v1/transfers/t1", "").await;
    let view: TransferView = answer(&context, &text);
    assert!(view.report.is_some_and(|report| report.discarded), "{text}");
    let (status, _) = ask(&transfers, OWNER, "DELETE", "/v1/transfers/t1", "").await;
    assert_eq!(status, 200, "cancelling what is over changes nothing");
    let path = "/v1/transfers/t1";
    let (_, text) = ask(&transfers, OWNER, "GET", path, "").await;
    assert_eq!(
        answer::<TransferView>(&context, &text).state,
        control::TransferState::Succeeded
    );
}

#[tokio::test]
async fn a_stream_goes_on_where_the_client_left_it() {
    let context = context();
    let (_, transfers) = both(&context);
    let body = r#"{"id": "t", "source": "null:1M", "target": "null:"}"#;
    ask(&transfers, OWNER, "POST", "/v1/transfers", body).await;
    let peer = Caller(Some(PeerCredentials {
        pid: 1,
        uid: OWNER,
        gid: 0,
    }));
    let from = |last: &str| {
        HttpRequest::builder()
            .uri("/v1/transfers/t/events")
            .header("Last-Event-ID", last)
            .extension(ConnectInfo(peer))
            .body(HttpBody::empty())
            .unwrap()
    };
    let response = transfers.clone().oneshot(from("1")).await.unwrap();
    let mut stream = response.into_body().into_data_stream();
    let mut text = String::new();
    while let Some(bytes) = stream.next().await {
        text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
    }
    assert!(
        !text.contains("id: 1\n") && text.contains("succeeded"),
        "{text}"
    );
    let response = transfers.oneshot(from("soon")).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn tunables_can_be_looked_at_and_set() {
    let context = context();
    let (_, transfers) = both(&context);
    let patch = r#"{"request_bytes": "512K", "device_depth": 1000000}"#;
    let (status, text) = ask(&transfers, OWNER, "PATCH", "/v1/tunables", patch).await;
    assert_eq!(status, 200);
    let list: TunableList = answer(&context, &text);
    let find = |name| list.tunables.iter().find(|one| one.name == name).unwrap();
    assert_eq!(
        find("request_bytes").value,
        control::TunableValue::Number(512 << 10)
    );
    assert!(
        find("device_depth").clamped.is_some(),
        "a clamped value says why"
    );
}

#[tokio::test]
async fn metrics_are_lines_of_name_labels_and_value() {
    let context = context();
    let (_, transfers) = both(&context);
    let (status, text) = ask(&transfers, OWNER, "GET", "/metrics", "").await;
    assert_eq!(status, 200);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("migratekit_dataplane_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(
        text.contains("migratekit_dataplane_connections{stage=\"preauth\"} 0"),
        "{text}"
    );
}

#[tokio::test]
async fn a_process_that_ends_takes_no_new_work() {
    let context = context();
    let (exports, transfers) = both(&context);
    context.set_draining();
    context.registry.begin_drain(&context.engine);
    let put = r#"{"device": "/x", "mode": "rw", "client_fingerprints": ["any"], "fence": 1}"#;
    let (status, text) = ask(&exports, OWNER, "PUT", "/v1/exports/a", put).await;
    assert_eq!(
        (status, error(&context, &text).kind),
        (503, ErrorKind::Draining)
    );
    let body = r#"{"id": "t", "source": "null:1M", "target": "null:"}"#;
    assert_eq!(
        ask(&transfers, OWNER, "POST", "/v1/transfers", body)
            .await
            .0,
        503
    );
}
