#![allow(missing_docs)]
#[derive(Debug)] pub struct HostMount{pub source:std::path::PathBuf,pub mount:crate::api::v1::Mount} pub enum MissingHostPath{Create,Error}
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct Error;
pub async fn resolve(m:&[crate::api::v1::Mount],_:MissingHostPath)->Result<Vec<HostMount>,Error>{Ok(m.iter().cloned().map(|mount|HostMount{source:mount.host_path.clone().into(),mount}).collect())}
