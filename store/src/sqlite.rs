//! A store in one SQLite file.
//!
//! ```text
//!   any task ── Job ──► bounded queue ──► one thread that owns the connection ── answer ──► the task
//! ```

use std::path::Path;
use std::thread;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot};
use zynk_protocol::RoomName;

use crate::{ROOMS_MAX, RoomRecord, Store, StoreError};

/// Calls that wait for the thread. When it is full, callers wait.
const QUEUE_JOBS_MAX: usize = 256;

/// How long another process may hold the file before a call fails.
const BUSY_TIMEOUT_MS: u64 = 5_000;

/// Schema changes, oldest first; `user_version` counts those that a file has had.
const MIGRATIONS: [&str; 1] = ["CREATE TABLE rooms (
    name TEXT PRIMARY KEY NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID"];

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Keeps everything in one file. The thread ends, and closes the file, when the store is dropped.
#[derive(Debug)]
pub struct SqliteStore {
    jobs: mpsc::Sender<Job>,
}

impl SqliteStore {
    /// Opens the file, makes it when missing, and brings its schema up to date.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE_JOBS_MAX);
        let (opened, result) = oneshot::channel();
        thread::Builder::new()
            .name("zynk-store".into())
            .spawn(move || {
                let mut connection = match open(&path) {
                    Ok(connection) => connection,
                    Err(error) => {
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                let _ = opened.send(Ok(()));
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection);
                }
            })
            .map_err(|error| StoreError::Backend(error.to_string()))?;
        result.await.map_err(|_| StoreError::Closed)??;
        Ok(Self { jobs })
    }

    async fn run<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // A caller that went away does not want the answer.
            let _ = answer.send(job(connection));
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create_room(&self, room: &RoomRecord) -> Result<RoomRecord, StoreError> {
        let room = room.clone();
        self.run(move |connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            if let Some(existing) = find(&transaction, &room.name)? {
                return Ok(existing);
            }
            upsert(&transaction, &room)?;
            transaction.commit()?;
            Ok(room)
        })
        .await
    }

    async fn put_room(&self, room: &RoomRecord) -> Result<(), StoreError> {
        let room = room.clone();
        self.run(move |connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            upsert(&transaction, &room)?;
            Ok(transaction.commit()?)
        })
        .await
    }

    async fn room(&self, name: &RoomName) -> Result<Option<RoomRecord>, StoreError> {
        let name = name.clone();
        self.run(move |connection| find(connection, &name)).await
    }

    async fn rooms(&self) -> Result<Vec<RoomRecord>, StoreError> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached("SELECT record FROM rooms ORDER BY name")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            rows.map(|text| decode(&text?)).collect()
        })
        .await
    }

    async fn delete_room(&self, name: &RoomName) -> Result<bool, StoreError> {
        let name = name.clone();
        self.run(move |connection| {
            Ok(connection.execute("DELETE FROM rooms WHERE name = ?1", [name.as_str()])? > 0)
        })
        .await
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_millis(BUSY_TIMEOUT_MS))?;
    // A write is safe from a crash of the process in this mode; a power cut may undo the last ones.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    migrate(&mut connection)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    for migration in MIGRATIONS.iter().skip(found.max(0) as usize) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}

fn find(connection: &Connection, name: &RoomName) -> Result<Option<RoomRecord>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT record FROM rooms WHERE name = ?1")?;
    let text = statement.query_row([name.as_str()], |row| row.get::<_, String>(0)).optional()?;
    text.as_deref().map(decode).transpose()
}

/// Inserts or replaces, within a transaction: the count and the insertion belong together.
fn upsert(connection: &Connection, room: &RoomRecord) -> Result<(), StoreError> {
    let record = serde_json::to_string(room).map_err(|error| StoreError::Backend(error.to_string()))?;
    let changed = connection
        .prepare_cached("UPDATE rooms SET record = ?2 WHERE name = ?1")?
        .execute(params![room.name.as_str(), record])?;
    if changed > 0 {
        return Ok(());
    }
    let count: i64 =
        connection.prepare_cached("SELECT count(*) FROM rooms")?.query_row([], |row| row.get(0))?;
    if count >= ROOMS_MAX as i64 {
        return Err(StoreError::Full);
    }
    connection
        .prepare_cached("INSERT INTO rooms (name, record) VALUES (?1, ?2)")?
        .execute(params![room.name.as_str(), record])?;
    Ok(())
}

fn decode(record: &str) -> Result<RoomRecord, StoreError> {
    serde_json::from_str(record).map_err(|error| StoreError::Backend(format!("damaged record: {error}")))
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Backend(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zynk_protocol::RoomSid;

    crate::store_conformance!(sqlite, async {
        let directory = tempfile::tempdir().unwrap();
        (SqliteStore::open(directory.path().join("zynk.db")).await.unwrap(), directory)
    });

    #[tokio::test]
    async fn rooms_outlive_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zynk.db");
        let room = RoomRecord::new(RoomName::new("lobby"), RoomSid::from_random(1), 5);
        SqliteStore::open(&path).await.unwrap().put_room(&room).await.unwrap();
        assert_eq!(SqliteStore::open(&path).await.unwrap().rooms().await.unwrap(), [room]);
    }

    #[tokio::test]
    async fn two_processes_share_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zynk.db");
        let (one, two) = (SqliteStore::open(&path).await.unwrap(), SqliteStore::open(&path).await.unwrap());
        let room = |sid| RoomRecord::new(RoomName::new("lobby"), RoomSid::from_random(sid), 5);
        let (first, second) = (room(1), room(2));
        let (a, b) = tokio::join!(one.create_room(&first), two.create_room(&second));
        assert_eq!(a.unwrap(), b.unwrap());
    }

    #[tokio::test]
    async fn a_newer_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zynk.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = SqliteStore::open(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::TooNew { found: 99, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zynk.db");
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        assert!(matches!(SqliteStore::open(&path).await, Err(StoreError::Backend(_))));
        assert!(matches!(
            SqliteStore::open(directory.path().join("missing/zynk.db")).await,
            Err(StoreError::Backend(_))
        ));
    }
}
