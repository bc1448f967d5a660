//! A tus server in a few threads that can be told to misbehave. It keeps uploads in memory and knows
//! nothing of the client's code.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// For answers without headers of their own.
const NONE: &[(&str, &str)] = &[];

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// What goes wrong with the next request of a method.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answers with this status, these headers and this text, and does nothing.
    Answer(u16, &'static [(&'static str, &'static str)], &'static str),
    /// Answers so before it reads the body, which it then reads and drops.
    Early(u16, &'static str),
    /// Keeps this many bytes of the body, then closes the connection.
    CutBody(usize),
    /// Does what it should, then closes the connection without a word.
    LoseAnswer,
    /// Forgets the upload before it looks at the request.
    Forget,
    /// One byte of the body is another on arrival.
    Corrupt,
    /// After the request, so many of the bytes confirmed are lost.
    LoseBytes(usize),
    /// Keeps this many bytes of the body, then reads no more until the gate is opened, and closes.
    Hold(usize),
    /// Reads all, then answers when the gate is opened.
    Delay,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    pub data: Vec<u8>,
    /// Differs from the length of `data` when that is not kept.
    pub offset: u64,
    pub length: Option<u64>,
    pub metadata: String,
    pub concat: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub method: String,
    pub headers: BTreeMap<String, String>,
    pub body: u64,
}

#[derive(Debug, Default)]
pub(crate) struct World {
    pub extensions: String,
    pub max_size: Option<u64>,
    pub absolute_location: bool,
    /// Counts the bytes and lets them go.
    pub discards: bool,
    pub faults: Vec<(&'static str, Fault)>,
    /// Answers to GET, the last one for ever.
    pub states: Vec<&'static str>,
    pub uploads: BTreeMap<String, Stored>,
    pub log: Vec<Logged>,
    gate_is_open: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Stub {
    pub address: SocketAddr,
    world: Arc<(Mutex<World>, Condvar)>,
}

impl Stub {
    pub(crate) fn start(extensions: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let world = World {
            extensions: extensions.to_owned(),
            ..World::default()
        };
        let address = listener.local_addr().unwrap();
        let stub = Self {
            address,
            world: Arc::new((Mutex::new(world), Condvar::new())),
        };
        let server = stub.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                thread::spawn(move || server.serve(stream));
            }
        });
        stub
    }

    pub(crate) fn with_faults(extensions: &str, faults: &[(&'static str, Fault)]) -> Self {
        let stub = Self::start(extensions);
        stub.world().faults = faults.to_vec();
        stub
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}/files/", self.address)
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.0.lock().unwrap()
    }

    /// Waits until the world is as it should be.
    pub(crate) fn wait_until(&self, what: &str, is_so: impl Fn(&World) -> bool) {
        let until = Instant::now() + DEADLINE;
        let mut world = self.world();
        while !is_so(&world) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain until {what}");
            world = self.world.1.wait_timeout(world, left).unwrap().0;
        }
    }

    pub(crate) fn open_gate(&self) {
        self.world().gate_is_open = true;
        self.world.1.notify_all();
    }

    /// The requests so far, such as `PATCH 0+5` (offset and body) or `POST`.
    pub(crate) fn requests(&self) -> Vec<String> {
        let line = |logged: &Logged| match logged.headers.get("upload-offset") {
            Some(offset) => format!("{} {offset}+{}", logged.method, logged.body),
            None if logged.body > 0 => format!("{} +{}", logged.method, logged.body),
            None => logged.method.clone(),
        };
        self.world().log.iter().map(line).collect()
    }

    /// The one upload that is not a part of another.
    pub(crate) fn only_upload(&self) -> Stored {
        let world = self.world();
        let whole: Vec<_> = world
            .uploads
            .values()
            .filter(|it| it.concat != "partial")
            .collect();
        assert_eq!(whole.len(), 1, "{:?}", world.uploads.keys());
        whole[0].clone()
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(mut request) = Request::read(&mut reader) {
            let fault = self.take_fault(&request.method);
            let Some(answer) = self.act(&mut request, &mut reader, fault) else {
                return;
            };
            if reader.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn take_fault(&self, method: &str) -> Option<Fault> {
        let mut world = self.world();
        let at = world.faults.iter().position(|(of, _)| *of == method)?;
        Some(world.faults.remove(at).1)
    }

    /// `None`: the connection is closed instead.
    fn act(
        &self,
        request: &mut Request,
        reader: &mut BufReader<TcpStream>,
        fault: Option<Fault>,
    ) -> Option<String> {
        if let Some(Fault::Early(status, text)) = fault {
            let answer = reply(status, NONE, text);
            reader.get_mut().write_all(answer.as_bytes()).ok()?;
            std::io::copy(reader, &mut std::io::sink()).ok();
            return None;
        }
        let keep = match fault {
            Some(Fault::CutBody(most) | Fault::Hold(most)) => most,
            _ => usize::MAX,
        };
        let discards = self.world().discards;
        request.read_body(reader, keep, discards);
        if let Some(Fault::Corrupt) = fault
            && let Some(byte) = request.body.first_mut()
        {
            *byte ^= 1;
        }
        let mut world = self.world();
        let method = request.method.clone();
        world.log.push(Logged {
            method,
            headers: request.headers.clone(),
            body: request.body_length,
        });
        if let Some(Fault::Forget) = fault {
            world.uploads.remove(&request.path);
        }
        let answer = match &fault {
            Some(Fault::Answer(status, headers, text)) => reply(*status, headers, text),
            _ => world.answer(request),
        };
        if let Some(Fault::LoseBytes(count)) = fault {
            world.lose_bytes(&request.path, count);
        }
        drop(world);
        self.world.1.notify_all();
        match fault {
            Some(Fault::CutBody(_) | Fault::LoseAnswer) => None,
            Some(Fault::Hold(_)) => {
                self.wait_until("the gate is open", |world| world.gate_is_open);
                None
            }
            Some(Fault::Delay) => {
                self.wait_until("the gate is open", |world| world.gate_is_open);
                Some(answer)
            }
            _ => Some(answer),
        }
    }
}

#[derive(Debug, Default)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    body_length: u64,
}

impl Request {
    fn read(reader: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace();
        let mut request = Self {
            method: words.next()?.to_owned(),
            path: path_of(words.next()?).to_owned(),
            ..Self::default()
        };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                return Some(request);
            };
            request
                .headers
                .insert(name.to_lowercase(), value.to_owned());
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.headers.get(name).map(|value| value.parse().unwrap())
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn read_body(&mut self, reader: &mut BufReader<TcpStream>, most: usize, discards: bool) {
        assert!(
            !self.headers.contains_key("transfer-encoding"),
            "bodies have a known length"
        );
        let length = self.number("content-length").unwrap_or(0).min(most as u64);
        let mut body = reader.take(length);
        if discards {
            self.body_length = std::io::copy(&mut body, &mut std::io::sink()).unwrap_or(0);
        } else {
            // What arrived before a broken connection is kept, as by any resumable server.
            body.read_to_end(&mut self.body).ok();
            self.body_length = self.body.len() as u64;
        }
    }
}

impl World {
    fn answer(&mut self, request: &Request) -> String {
        match request.method.as_str() {
            "OPTIONS" => self.options(),
            "POST" => self.create(request),
            _ if !self.uploads.contains_key(&request.path) => {
                reply(404, NONE, "not-found: no upload")
            }
            "HEAD" => {
                let upload = &self.uploads[&request.path];
                let mut headers = vec![("Upload-Offset", upload.offset.to_string())];
                headers.extend(
                    upload
                        .length
                        .map(|length| ("Upload-Length", length.to_string())),
                );
                reply(200, &headers, "")
            }
            "PATCH" => self.append(request),
            "DELETE" => {
                self.uploads.remove(&request.path);
                reply(204, NONE, "")
            }
            "GET" => self.state(),
            other => panic!("{other} is not asked for"),
        }
    }

    fn options(&self) -> String {
        let mut headers = vec![
            ("Tus-Version", "1.0.0".to_owned()),
            ("Tus-Extension", self.extensions.clone()),
            ("Tus-Checksum-Algorithm", "sha1,crc32".to_owned()),
        ];
        headers.extend(self.max_size.map(|most| ("Tus-Max-Size", most.to_string())));
        reply(204, &headers, "")
    }

    fn create(&mut self, request: &Request) -> String {
        assert_eq!(request.header("tus-resumable"), "1.0.0");
        let path = format!("/files/{}", self.uploads.len() + 1);
        let concat = request.header("upload-concat").to_owned();
        let mut upload = Stored {
            length: request.number("upload-length"),
            metadata: request.header("upload-metadata").to_owned(),
            ..Stored::default()
        };
        let deferred = request.header("upload-defer-length") == "1";
        let is_final = concat.starts_with("final;");
        assert_eq!(
            upload.length.is_none(),
            deferred || is_final,
            "one of length and deferral"
        );
        if let Some(urls) = concat.strip_prefix("final;") {
            for url in urls.split(' ') {
                let id = url.rsplit_once("/files/").unwrap().1;
                let part = &self.uploads[&format!("/files/{id}")];
                assert_eq!(Some(part.offset), part.length, "{url} is not complete");
                upload.data.extend(&part.data);
            }
            upload.length = Some(upload.data.len() as u64);
        } else {
            upload.data.extend(&request.body);
        }
        upload.offset = (upload.data.len() as u64).max(request.body_length);
        upload.concat = if is_final { "final".to_owned() } else { concat };
        let location = match self.absolute_location {
            true => format!("http://{}{path}", request.header("host")),
            false => path.clone(),
        };
        let headers = [
            ("Location", location),
            ("Upload-Offset", upload.offset.to_string()),
        ];
        self.uploads.insert(path, upload);
        reply(201, &headers, "")
    }

    fn append(&mut self, request: &Request) -> String {
        assert_eq!(request.header("tus-resumable"), "1.0.0");
        assert_eq!(
            request.header("content-type"),
            "application/offset+octet-stream"
        );
        let Some(upload) = self.uploads.get_mut(&request.path) else {
            unreachable!()
        };
        if request.number("upload-offset") != Some(upload.offset) {
            return reply(
                409,
                &[("Upload-Offset", upload.offset.to_string())],
                "offset: another",
            );
        }
        if !checksum_is_right(request.header("upload-checksum"), &request.body) {
            return reply(460, NONE, "checksum: does not match");
        }
        upload.length = upload.length.or(request.number("upload-length"));
        upload.data.extend(&request.body);
        upload.offset += request.body_length;
        assert!(
            upload.length.is_none_or(|length| upload.offset <= length),
            "more than announced"
        );
        reply(204, &[("Upload-Offset", upload.offset.to_string())], "")
    }

    fn lose_bytes(&mut self, path: &str, count: usize) {
        let upload = self.uploads.get_mut(path).unwrap();
        let kept = upload.data.len() - count;
        upload.data.truncate(kept);
        upload.offset = kept as u64;
    }

    fn state(&mut self) -> String {
        match self.states.len() {
            0 => reply(
                200,
                &[("Content-Type", "video/mp4".to_owned())],
                "the file itself",
            ),
            many => {
                let state = if many > 1 {
                    self.states.remove(0)
                } else {
                    self.states[0]
                };
                reply(
                    200,
                    &[("Content-Type", "application/json".to_owned())],
                    state,
                )
            }
        }
    }
}

/// A proxy is asked for a whole URL.
fn path_of(target: &str) -> &str {
    let after_host = target
        .strip_prefix("http://")
        .and_then(|rest| rest.find('/'));
    after_host.map_or(target, |at| target.split_at("http://".len() + at).1)
}

/// CRC-32 alone: what the other algorithms give is checked where they are computed.
fn checksum_is_right(header: &str, body: &[u8]) -> bool {
    let Some(told) = header.strip_prefix("crc32 ") else {
        return true;
    };
    let crc = crc32fast::hash(body).to_be_bytes();
    told == base64::Engine::encode(&base64::prelude::BASE64_STANDARD, crc)
}

fn reply<V: AsRef<str>>(status: u16, headers: &[(&'static str, V)], text: &str) -> String {
    let mut answer = format!("HTTP/1.1 {status} said\r\nTus-Resumable: 1.0.0\r\n");
    for (name, value) in headers {
        answer.push_str(&format!("{name}: {}\r\n", value.as_ref()));
    }
    if status != 204 {
        answer.push_str(&format!("Content-Length: {}\r\n", text.len()));
    }
    answer + "\r\n" + text
}
