//! Commands that read.

use super::answer::{Number, field, number};
use super::client::Command;
use super::error::ClientError;
use super::params::Parameters;
use serde::Deserialize;
use serde_json::{Map, Value};

/// `listCapabilities`: proves keys and clock, and names the version.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListCapabilities;

/// What the server says of itself.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Capabilities {
    /// Its version, by which parameters are chosen.
    pub cloudstackversion: Option<String>,
    /// Calls allowed in an interval, when limited.
    pub apilimitmax: Option<Number>,
    /// That interval in seconds.
    pub apilimitinterval: Option<Number>,
}

impl Command for ListCapabilities {
    const NAME: &'static str = "listCapabilities";
    type Answer = Capabilities;
    fn parameters(&self) -> Parameters {
        Parameters::new()
    }
    fn read(&self, mut body: Map<String, Value>) -> Result<Capabilities, String> {
        let value = field(&mut body, "capability").ok_or("no `capability` in it")?;
        serde_json::from_value(value).map_err(|error| error.to_string())
    }
}

/// `queryAsyncJobResult`: the state of a job by its id, which may be the `customjobid` that the caller chose.
#[derive(Debug, Clone)]
pub struct QueryAsyncJobResult {
    /// The job.
    pub jobid: String,
}

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// How it stands.
    pub outcome: JobOutcome,
    /// The object it works on, when known.
    pub object: Option<String>,
}

/// How a job stands. Its result code is not looked at: failures with code 0 exist.
#[derive(Debug, Clone, PartialEq)]
pub enum JobOutcome {
    /// Not ended.
    Pending,
    /// Ended well, with the result.
    Succeeded(Value),
    /// Ended badly. After a restart of the server there is no code, and the work may be done all the same.
    Failed {
        /// CloudStack's code.
        code: Option<i64>,
        /// CloudStack's text, verbatim; empty when there is none.
        text: String,
    },
}

impl Command for QueryAsyncJobResult {
    const NAME: &'static str = "queryAsyncJobResult";
    type Answer = Job;
    fn parameters(&self) -> Parameters {
        Parameters::new().with("jobid", self.jobid.as_str())
    }
    fn read(&self, mut body: Map<String, Value>) -> Result<Job, String> {
        let status = number(body.get("jobstatus")).ok_or("no `jobstatus` in it")?;
        let result = field(&mut body, "jobresult").unwrap_or(Value::Null);
        let outcome = match status {
            0 => JobOutcome::Pending,
            1 => JobOutcome::Succeeded(result),
            2 | 3 => JobOutcome::Failed {
                code: number(result.get("errorcode")),
                text: match result.get("errortext") {
                    Some(Value::String(text)) => text.clone(),
                    _ => String::new(),
                },
            },
            other => return Err(format!("job status {other} is unknown")),
        };
        let object = match field(&mut body, "jobinstanceid") {
            Some(Value::String(id)) => Some(id),
            Some(Value::Number(id)) => Some(id.to_string()),
            _ => None,
        };
        Ok(Job { outcome, object })
    }
}

impl QueryAsyncJobResult {
    /// Whether `error` of this query means that no such job is known: never submitted, or its row has expired. The
    /// object's state then decides.
    #[must_use]
    pub fn is_unknown(error: &ClientError) -> bool {
        error.command == Self::NAME && error.code == Some(431)
    }
}
