//! The gateway as a separate process.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use llamatower_sim::SimHandle;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Notify;

use super::{Answer, Connection, send, within_limit};

const PROGRAM: &str = env!("CARGO_BIN_EXE_llamatower");

/// The result of a finished process.
#[derive(Debug)]
pub(crate) struct Exited {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the program until it ends.
pub(crate) async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Exited {
    let output = command(environment).args(arguments).output();
    let output = within_limit("the end of the program", output)
        .await
        .unwrap();
    Exited {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn command(environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .env_clear()
        .env("LLAMATOWER_LISTEN", "127.0.0.1:0")
        .env("LLAMATOWER_ADMIN_LISTEN", "127.0.0.1:0")
        .env("LLAMATOWER_LOG_FORMAT", "json")
        .env("LLAMATOWER_DRAIN_DELAY", "0")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// A listening gateway process; dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    log: Arc<Log>,
    address: String,
    operators: String,
    client: reqwest::Client,
}

impl Gateway {
    /// Starts a gateway in front of these servers, with these settings.
    pub(crate) async fn start(sims: &[&SimHandle], settings: &[(&str, &str)]) -> Self {
        let urls: Vec<String> = sims.iter().map(|sim| sim.url()).collect();
        let urls = urls.join(",");
        let mut environment = vec![("OLLAMA_URL", &*urls)];
        environment.extend(settings);
        let mut child = command(&environment)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let log = Log::of(child.stdout.take().unwrap());
        let address = log.address_for("clients").await;
        let operators = log.address_for("operators").await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            child,
            log,
            address,
            operators,
            client,
        }
    }

    /// The same, once it knows the models of each server.
    pub(crate) async fn start_up(sims: &[&SimHandle], settings: &[(&str, &str)]) -> Self {
        let gateway = Self::start(sims, settings).await;
        gateway.until_up(sims).await;
        gateway
    }

    /// Waits until it knows the models of each of these servers.
    pub(crate) async fn until_up(&self, sims: &[&SimHandle]) {
        for sim in sims {
            self.until_backend_up(&sim.addr().to_string()).await;
        }
    }

    /// Waits for its log line that the backend with this name is up, and returns the line.
    pub(crate) async fn until_backend_up(&self, name: &str) -> Value {
        const UP: &str = "the backend is up";
        let is_it = |line: &Value| line["message"] == UP && line["backend"] == *name;
        self.logged(&format!("{UP}: {name}"), is_it).await
    }

    pub(crate) fn socket_address(&self) -> SocketAddr {
        self.address.parse().unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::tcp(self.socket_address()).await
    }

    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(self.url(path))
    }

    /// A DELETE request with JSON.
    pub(crate) fn delete(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.delete(self.url(path)).json(body)
    }

    /// Posts JSON and reads the whole response.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.post_request(path, body)).await
    }

    /// A request that posts JSON.
    pub(crate) fn post_request(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(self.url(path)).json(body)
    }

    /// The address of the admin listener.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}", self.operators)
    }

    /// A POST request to the admin listener, without a body.
    pub(crate) fn admin_post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}{path}", self.admin_url()))
    }

    /// A page of the admin listener.
    pub(crate) async fn admin_page(&self, path: &str) -> Answer {
        send(self.client.get(format!("http://{}{path}", self.operators))).await
    }

    /// The same, with another `Host`.
    pub(crate) async fn admin_page_under(&self, host: &str, path: &str) -> Answer {
        let page = self.client.get(format!("http://{}{path}", self.operators));
        send(page.header("host", host)).await
    }

    /// The value of a metric without labels, or the sum over its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = self.admin_page("/metrics").await.text;
        let rows = page.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        rows.map(|row| row.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// The value of the only sample of a metric that contains these labels.
    pub(crate) async fn sample(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let page = self.admin_page("/metrics").await.text;
        let mut rows = page.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
                && labels.iter().all(|label| line.contains(label))
        });
        let row = rows.next()?;
        assert_eq!(rows.next(), None, "{name} has one sample with {labels:?}");
        row.rsplit(' ').next().unwrap().parse().ok()
    }

    /// Waits for a log line.
    pub(crate) async fn logged(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.log.line(what, is_it).await
    }

    /// Whether such a line has been logged so far.
    pub(crate) fn has_logged(&self, is_it: impl Fn(&Value) -> bool) -> bool {
        self.count_logged(is_it) > 0
    }

    /// The number of such lines so far.
    pub(crate) fn count_logged(&self, is_it: impl Fn(&Value) -> bool) -> usize {
        let lines = self.log.lines.lock().unwrap();
        lines.iter().filter(|line| is_it(line)).count()
    }

    /// The number of lines with this message so far.
    pub(crate) fn lines_of(&self, message: &str) -> usize {
        let lines = self.log.lines.lock().unwrap();
        let lines = lines.iter().filter(|line| line["message"] == message);
        lines.count()
    }

    /// All lines so far.
    pub(crate) fn log_text(&self) -> String {
        let lines = self.log.lines.lock().unwrap();
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The first line of the log.
    pub(crate) fn first_line(&self) -> Value {
        self.log.lines.lock().unwrap()[0].clone()
    }

    /// Waits for the access log line of a finished request.
    pub(crate) async fn access_line(&self, route: &str) -> Value {
        let is_it = |line: &Value| line["message"] == "request" && line["route"] == route;
        self.logged("the end of a request", is_it).await
    }

    /// Sends SIGTERM and returns at once.
    pub(crate) async fn send_sigterm(&self) {
        self.signal("TERM").await;
    }

    /// Sends a signal by its name and returns at once.
    pub(crate) async fn signal(&self, name: &str) {
        let process = self.child.id().unwrap().to_string();
        let name = format!("-{name}");
        let sent = Command::new("kill").args([&name, &process]).status();
        assert!(sent.await.unwrap().success());
    }

    /// Limits the size of the files that it may write, as `prlimit` does.
    pub(crate) async fn limit_file_size(&self, bytes: &str) {
        let process = self.child.id().unwrap().to_string();
        let limit = format!("--fsize={bytes}:unlimited");
        let limited = Command::new("prlimit")
            .args(["--pid", &process, &limit])
            .status();
        assert!(limited.await.unwrap().success());
    }

    /// Sends SIGHUP and waits for its log line with this message.
    pub(crate) async fn hang_up(&self, message: &str) -> Value {
        let seen = self.lines_logged();
        self.signal("HUP").await;
        let is_it = |line: &Value| line["message"] == message;
        self.logged_after(seen, message, is_it).await
    }

    /// The number of log lines so far.
    pub(crate) fn lines_logged(&self) -> usize {
        self.log.len()
    }

    /// Waits for a log line after the first `seen` lines.
    pub(crate) async fn logged_after(
        &self,
        seen: usize,
        what: &str,
        is_it: impl Fn(&Value) -> bool,
    ) -> Value {
        self.log.line_after(seen, what, is_it).await
    }

    /// Waits for the end of the process, and returns its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        within_limit("the gateway's end", self.child.wait())
            .await
            .unwrap()
            .code()
    }

    /// Sends SIGTERM and waits for the end of the process.
    pub(crate) async fn terminate(mut self) -> Option<i32> {
        self.send_sigterm().await;
        self.ended().await
    }
}

/// The log lines so far.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Vec<Value>>,
    grown: Notify,
}

impl Log {
    /// Reads until the process ends, so that the process never blocks on a full pipe.
    fn of(stdout: ChildStdout) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let writer = log.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                writer.lines.lock().unwrap().push(line);
                writer.grown.notify_waiters();
            }
        });
        log
    }

    fn len(&self) -> usize {
        self.lines.lock().unwrap().len()
    }

    async fn line(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.line_after(0, what, is_it).await
    }

    /// Waits for a line after the first `seen` lines.
    async fn line_after(&self, seen: usize, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let found = async {
            loop {
                let mut grown = std::pin::pin!(self.grown.notified());
                grown.as_mut().enable();
                let found = {
                    let lines = self.lines.lock().unwrap();
                    lines.iter().skip(seen).find(|line| is_it(line)).cloned()
                };
                match found {
                    Some(line) => return line,
                    None => grown.await,
                }
            }
        };
        within_limit(&format!("{what}, in the log"), found).await
    }

    async fn address_for(&self, audience: &str) -> String {
        let is_it = |line: &Value| line["message"] == "listening" && line["for"] == audience;
        let line = self.line("an address", is_it).await;
        line["address"].as_str().unwrap().to_owned()
    }
}
