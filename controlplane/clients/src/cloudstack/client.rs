//! One signed POST per call, and what its answer or its absence means.

use super::answer;
use super::error::{ClientError, ClientErrorKind};
use super::params::Parameters;
use super::signing::{encode, expires, signature};
use serde_json::{Map, Value};
use std::fmt;
use std::time::{Duration, SystemTime};

/// How far ahead a signature expires; the server allows 15 minutes at most.
const VALID_FOR: Duration = Duration::from_secs(600);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A command: its name, its parameters and how its answer reads.
pub trait Command {
    /// CloudStack's name for it.
    const NAME: &'static str;
    /// How long the server may take to answer.
    const ANSWER_WITHIN: Duration = Duration::from_secs(60);
    /// The answer.
    type Answer;
    /// The parameters, without those that every call has.
    fn parameters(&self) -> Parameters;
    /// Reads the body under the wrapper key.
    ///
    /// # Errors
    /// Tells what is wrong with the answer.
    fn read(&self, body: Map<String, Value>) -> Result<Self::Answer, String>;
}

/// The keys of a user.
#[derive(Clone)]
pub struct Keys {
    /// Names the user.
    pub api_key: String,
    /// Signs; goes into no message.
    pub secret: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Keys(hidden)")
    }
}

/// Where and as whom to call.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The endpoint, `https://host/client/api`.
    pub endpoint: String,
    /// The user.
    pub keys: Keys,
    /// PEM of the authority that signed the server's certificate; none trusts those of the host.
    pub authority: Option<Vec<u8>>,
}

/// A caller of one endpoint. It never tries again on its own.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    settings: Settings,
}

impl Client {
    /// A client for `settings`; nothing is sent yet.
    ///
    /// # Errors
    /// When the endpoint is no address or the authority no certificate.
    pub fn new(settings: Settings) -> Result<Self, ClientError> {
        let bad = |text: String| ClientError::new(ClientErrorKind::Settings, "client", None, text);
        let endpoint =
            reqwest::Url::parse(&settings.endpoint).map_err(|error| bad(error.to_string()))?;
        if !matches!(endpoint.scheme(), "http" | "https") {
            return Err(bad(format!("{endpoint} is neither http nor https")));
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never());
        if let Some(pem) = &settings.authority {
            let certificates =
                reqwest::Certificate::from_pem_bundle(pem).map_err(|error| bad(causes(&error)))?;
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|error| bad(causes(&error)))?;
        Ok(Self { http, settings })
    }

    /// The longest that [`Self::call`] takes for `C`: to be compared with what is left of a lease before calling.
    #[must_use]
    pub fn time_needed<C: Command>() -> Duration {
        C::ANSWER_WITHIN
    }

    /// Sends `command` once and reads the answer.
    ///
    /// # Errors
    /// See [`ClientError`]; `maybe_done` tells whether the server may have acted.
    pub async fn call<C: Command>(&self, command: &C) -> Result<C::Answer, ClientError> {
        let body = self.body::<C>(command.parameters());
        let sent = self
            .http
            .post(&self.settings.endpoint)
            .timeout(C::ANSWER_WITHIN)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
            .send()
            .await
            .map_err(|error| failed(C::NAME, &error))?;
        let status = i64::from(sent.status().as_u16());
        let text = sent.bytes().await.map_err(|error| {
            ClientError::new(ClientErrorKind::LostReply, C::NAME, None, causes(&error))
        })?;
        let malformed = |text: String| {
            ClientError::new(ClientErrorKind::Malformed, C::NAME, Some(status), text)
        };
        let Some(mut answered) = answer::unwrap(&text) else {
            if status >= 400 {
                return Err(ClientError::reported(
                    C::NAME,
                    status,
                    None,
                    "no explanation",
                ));
            }
            return Err(malformed("no JSON object under one key".into()));
        };
        if status != 200 || answered.contains_key("errorcode") {
            let code = answer::number(answered.get("errorcode")).unwrap_or(status);
            let cs_code = answer::number(answered.get("cserrorcode"));
            let text = match answer::field(&mut answered, "errortext") {
                Some(Value::String(text)) => text,
                _ => "no explanation".into(),
            };
            return Err(ClientError::reported(C::NAME, code, cs_code, &text));
        }
        command.read(answered).map_err(malformed)
    }

    fn body<C: Command>(&self, parameters: Parameters) -> String {
        let mut pairs = parameters.into_pairs();
        for (name, value) in [
            ("command", C::NAME),
            ("response", "json"),
            ("apiKey", &self.settings.keys.api_key),
            ("signatureVersion", "3"),
            ("expires", &expires(SystemTime::now(), VALID_FOR)),
        ] {
            pairs.push((name.into(), value.into()));
        }
        let signed = signature(&self.settings.keys.secret, &pairs);
        pairs.push(("signature".into(), signed));
        let parts: Vec<_> = pairs
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        parts.join("&")
    }
}

fn failed(command: &'static str, error: &reqwest::Error) -> ClientError {
    let text = causes(error);
    let kind = if !error.is_connect() {
        ClientErrorKind::LostReply
    } else if text.contains("certificate") || text.contains("TLS") || text.contains("tls") {
        ClientErrorKind::Tls
    } else {
        ClientErrorKind::Unreachable
    };
    ClientError::new(kind, command, None, text)
}

/// The innermost cause says most.
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}
