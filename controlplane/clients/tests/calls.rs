//! Calls against peers that answer well, badly or not at all.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use clients::cloudstack::{
    Client, ClientError, ClientErrorKind, Job, JobOutcome, Keys, ListCapabilities,
    QueryAsyncJobResult, Settings,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn client(endpoint: String) -> Client {
    Client::new(Settings {
        endpoint,
        keys: Keys {
            api_key: "k".into(),
            secret: "hidden-secret".into(),
        },
        authority: None,
    })
    .unwrap()
}

/// Takes one request whole, answers `answer` and hangs up; gives back what was asked.
async fn serve(listener: TcpListener, answer: String) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut asked = Vec::new();
    let mut part = [0; 4096];
    while !String::from_utf8_lossy(&asked).contains("signature=") {
        let got = stream.read(&mut part).await.unwrap();
        assert_ne!(got, 0, "the request ends early");
        asked.extend_from_slice(&part[..got]);
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(asked).unwrap()
}

async fn query(status: u16, body: &str) -> (Result<Job, ClientError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = if status == 0 {
        String::new()
    } else {
        format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let command = QueryAsyncJobResult {
        jobid: "j~1".into(),
    };
    let client = client(format!("http://127.0.0.1:{port}/client/api"));
    tokio::join!(client.call(&command), serve(listener, answer))
}

#[tokio::test(flavor = "current_thread")]
async fn a_call_is_a_signed_post_that_expires() {
    let body = r#"{"queryasyncjobresultresponse":{"jobstatus":"1","jobinstanceid":7,"jobresult":{"success":true}}}"#;
    let (answer, asked) = query(200, body).await;
    let job = answer.unwrap();
    assert_eq!(job.object.as_deref(), Some("7"));
    assert!(matches!(job.outcome, JobOutcome::Succeeded(_)));
    assert!(asked.starts_with("POST /client/api HTTP/1.1"), "{asked}");
    for part in [
        "jobid=j%7E1&",
        "signatureVersion=3&",
        "expires=",
        "response=json&",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    assert!(!asked.contains("hidden-secret"));
}

#[tokio::test(flavor = "current_thread")]
async fn a_failed_job_without_result_is_a_failure() {
    let body = r#"{"queryasyncjobresultresponse":{"jobstatus":2,"jobresultcode":0}}"#;
    let job = query(200, body).await.0.unwrap();
    let expected = JobOutcome::Failed {
        code: None,
        text: String::new(),
    };
    assert_eq!(job.outcome, expected);
}

#[tokio::test(flavor = "current_thread")]
async fn an_expired_job_is_told_from_other_errors() {
    let body = r#"{"errorresponse":{"errorcode":431,"cserrorcode":"4350","errortext":"no job"}}"#;
    let error = query(431, body).await.0.unwrap_err();
    assert!(QueryAsyncJobResult::is_unknown(&error));
    assert_eq!(error.cs_code, Some(4350));
    assert!(!error.maybe_done);
}

#[tokio::test(flavor = "current_thread")]
async fn a_lost_reply_may_have_been_done() {
    let error = query(0, "").await.0.unwrap_err();
    assert_eq!(error.kind, ClientErrorKind::LostReply, "{error}");
    assert!(error.maybe_done);
}

#[tokio::test(flavor = "current_thread")]
async fn malformed_answers_and_refused_keys_have_their_remedy() {
    for (status, body, kind) in [
        (200, "<html>", ClientErrorKind::Malformed),
        (200, r#"{"a":{},"b":{}}"#, ClientErrorKind::Malformed),
        (200, r#"{"x":{"jobstatus":9}}"#, ClientErrorKind::Malformed),
        (401, "", ClientErrorKind::Unauthorized),
        (503, "", ClientErrorKind::Server),
    ] {
        let error = query(status, body).await.0.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(!error.to_string().contains('\n'));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn nobody_there_is_unreachable_and_certainly_not_done() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let client = client(format!("http://127.0.0.1:{port}/client/api"));
    let error = client.call(&ListCapabilities).await.unwrap_err();
    assert_eq!(error.kind, ClientErrorKind::Unreachable, "{error}");
    assert!(!error.maybe_done);
}
