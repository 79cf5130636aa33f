//! Images: pull, list, status, remove, and what `ctr` changes at the same time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use tokio::task::JoinSet;

use crate::bed::{BUSYBOX, Bed, image_spec, output, until};
use crate::harness::{Outcome, Test, rule};
use crate::registry::{Registry, digest};
use crate::scope::Scope;

pub fn tests() -> Vec<Test> {
    vec![
        rule!(a_pull_by_tag_and_by_digest_is_the_same_image),
        rule!(an_image_is_found_by_each_of_its_names),
        rule!(an_absent_image_has_no_status_and_no_error),
        rule!(a_pull_with_the_right_password_works),
        rule!(an_identity_token_is_exchanged_for_access),
        rule!(a_registry_token_is_refused_by_name).only_pontoon("the built-in pulls as nobody"),
        rule!(the_prefix_of_a_registry_that_is_away_is_the_first_word).only_pontoon("the built-in has no prefixes"),
        rule!(ten_pulls_of_one_image_fetch_it_once),
        rule!(a_pull_again_fetches_no_layer),
        rule!(the_list_is_filtered_by_reference).only_pontoon("the built-in ignores the filter"),
        rule!(the_verbose_status_has_the_images_config),
        rule!(a_removed_image_is_gone_with_all_its_tags),
        rule!(image_fs_info_names_a_directory_that_exists),
        rule!(what_ctr_imports_and_removes_is_seen_within_a_second),
    ]
}

impl Bed {
    /// ImageStatus, verbose.
    pub async fn image_status(&self, image: &str) -> anyhow::Result<v1::ImageStatusResponse> {
        let request = v1::ImageStatusRequest { image: Some(image_spec(image)), verbose: true };
        Ok(self.images().image_status(request).await.with_context(|| format!("ImageStatus of {image}"))?.into_inner())
    }

    pub async fn remove_image(&self, image: &str) -> anyhow::Result<()> {
        let request = v1::RemoveImageRequest { image: Some(image_spec(image)) };
        self.images().remove_image(request).await.with_context(|| format!("RemoveImage of {image}"))?;
        Ok(())
    }

    /// Calls ListImages; an empty `filter` lists all images.
    pub async fn list_images(&self, filter: &str) -> anyhow::Result<Vec<v1::Image>> {
        let filter = (!filter.is_empty()).then(|| v1::ImageFilter { image: Some(image_spec(filter)) });
        Ok(self.images().list_images(v1::ListImagesRequest { filter }).await.context("ListImages")?.into_inner().images)
    }
}

/// A layer with one file. Returns its gzip-compressed bytes and the digest of the uncompressed archive.
pub async fn layer(scope: &Scope, content: &str) -> anyhow::Result<(Vec<u8>, String)> {
    let root = scope.volume("layer")?;
    std::fs::write(root.join("file"), content)?;
    layer_of(scope, &root, &["--owner=0", "--group=0"]).await
}

/// The same for a layer of a directory, with more options for tar.
pub async fn layer_of(scope: &Scope, root: &Path, options: &[&str]) -> anyhow::Result<(Vec<u8>, String)> {
    let tar = scope.dir().join("layer.tar");
    output(tokio::process::Command::new("tar").args(options).arg("-cf").arg(&tar).arg("-C").arg(root).arg(".")).await?;
    let diff_id = digest(&std::fs::read(&tar)?);
    output(tokio::process::Command::new("gzip").arg("--force").arg(&tar)).await?;
    Ok((std::fs::read(tar.with_extension("tar.gz"))?, diff_id))
}

const TAGS: &str = "gcr.io/k8s-staging-cri-tools/test-image-tags";

async fn a_pull_by_tag_and_by_digest_is_the_same_image(scope: Arc<Scope>) -> Outcome {
    let by_tag = scope.bed.pull(BUSYBOX).await?;
    ensure!(by_tag.starts_with("sha256:") && by_tag.len() == 71, "{by_tag}");
    let image = scope.bed.image_status(BUSYBOX).await?.image.context("no image")?;
    ensure!(image.id == by_tag, "id {}, pulled {by_tag}", image.id);
    ensure!(image.repo_tags.iter().any(|tag| tag == BUSYBOX), "{:?}", image.repo_tags);
    let repository = BUSYBOX.rsplit_once(':').context("no tag")?.0;
    let reference = image.repo_digests.iter().find(|d| d.starts_with(repository)).context("no repository digest")?;
    let by_digest = scope.bed.pull(reference).await?;
    ensure!(by_digest == by_tag, "{by_digest} and {by_tag}");
    ensure!(image.size > 0, "size 0");
    Ok(())
}

async fn an_image_is_found_by_each_of_its_names(scope: Arc<Scope>) -> Outcome {
    let id = scope.bed.pull(BUSYBOX).await?;
    // The bed's registry has the same image under this name too, whose short form is `busybox:1.36`.
    scope.bed.pull("docker.io/library/busybox:1.36").await?;
    let digests = scope.bed.image_status(BUSYBOX).await?.image.context("no image")?.repo_digests;
    let names = [BUSYBOX, &id, id.trim_start_matches("sha256:"), &id[7..20], "busybox:1.36", &digests[0]];
    for name in names {
        let found = scope.bed.image_status(name).await?.image;
        ensure!(found.as_ref().is_some_and(|image| image.id == id), "{name}: {found:?}");
    }
    Ok(())
}

async fn an_absent_image_has_no_status_and_no_error(scope: Arc<Scope>) -> Outcome {
    for name in ["registry.k8s.io/not-there:1".to_owned(), format!("sha256:{}", "0".repeat(64))] {
        let status = scope.bed.image_status(&name).await?;
        ensure!(status.image.is_none(), "{status:?}");
        scope.bed.remove_image(&name).await?;
    }
    Ok(())
}

async fn a_pull_with_the_right_password_works(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    // base64 of `user:right`
    registry.require("dXNlcjpyaWdodA==")?;
    let (layer, diff_id) = layer(&scope, "behind a password").await?;
    let name = registry.image("private", &layer, &diff_id)?;
    for auth in [
        v1::AuthConfig { username: "user".into(), password: "right".into(), ..Default::default() },
        v1::AuthConfig { auth: "dXNlcjpyaWdodA==".into(), ..Default::default() },
    ] {
        let request = v1::PullImageRequest { image: Some(image_spec(&name)), auth: Some(auth), ..Default::default() };
        let pulled = scope.bed.images().pull_image(request).await.context("pull")?.into_inner();
        ensure!(pulled.image_ref.starts_with("sha256:"), "{pulled:?}");
        scope.bed.remove_image(&name).await?;
    }
    Ok(())
}

async fn pull_with(scope: &Scope, name: &str, auth: v1::AuthConfig) -> Result<String, tonic::Status> {
    let request = v1::PullImageRequest { image: Some(image_spec(name)), auth: Some(auth), ..Default::default() };
    Ok(scope.bed.images().pull_image(request).await?.into_inner().image_ref)
}

async fn an_identity_token_is_exchanged_for_access(scope: Arc<Scope>) -> Outcome {
    const TOKEN: &str = "refresh-s3cret";
    let registry = Registry::start(&scope.bed).await?;
    let (layer, diff_id) = layer(&scope, "for who has a token").await?;
    let name = registry.image("by-token", &layer, &diff_id)?;
    registry.require_token(TOKEN)?;
    let with = |token: &str| v1::AuthConfig { identity_token: token.to_owned(), ..Default::default() };
    let refused = pull_with(&scope, &name, with("another-s3cret")).await;
    let refused = refused.err().context("another token was taken")?;
    ensure!(!refused.message().contains("another-s3cret"), "{refused}");
    pull_with(&scope, &name, with(TOKEN)).await?;
    // The identity token goes only to the token server, in a form. The registry gets the access token issued in
    // exchange.
    let heads = registry.heads()?;
    let told: Vec<_> = heads.iter().filter(|head| head.contains(TOKEN)).collect();
    ensure!(!told.is_empty() && told.iter().all(|head| head.starts_with("POST /token")), "{told:?}");
    ensure!(heads.iter().any(|head| head.contains("Bearer access-")), "{heads:?}");
    scope.bed.remove_image(&name).await
}

async fn a_registry_token_is_refused_by_name(scope: Arc<Scope>) -> Outcome {
    let auth = v1::AuthConfig { registry_token: "s3cret-bearer".to_owned(), ..Default::default() };
    let refused = pull_with(&scope, BUSYBOX, auth).await.err().context("it was taken")?;
    ensure!(refused.code() == tonic::Code::InvalidArgument, "{refused}");
    ensure!(
        refused.message().starts_with("auth.registry_token: ") && !refused.message().contains("s3cret"),
        "{refused}"
    );
    Ok(())
}

/// kubelet compares only the beginning of the gRPC message.
async fn the_prefix_of_a_registry_that_is_away_is_the_first_word(scope: Arc<Scope>) -> Outcome {
    // Bound and not listening: connections are refused, and no other test's registry gets the port meanwhile.
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let nobody = socket.local_addr()?;
    let error = pull_with(&scope, &format!("{nobody}/a:1"), v1::AuthConfig::default()).await;
    let error = error.err().context("nobody answered, and yet")?;
    ensure!(error.message().starts_with("RegistryUnavailable"), "{error}");
    ensure!(error.code() == tonic::Code::Unavailable, "{error}");
    Ok(())
}

async fn ten_pulls_of_one_image_fetch_it_once(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    let (layer, diff_id) = layer(&scope, "wanted by ten").await?;
    let name = registry.image("popular", &layer, &diff_id)?;
    let mut pulls = JoinSet::new();
    for _ in 0..10 {
        let (bed, name) = (scope.bed.clone(), name.clone());
        pulls.spawn(async move { bed.pull(&name).await });
    }
    let ids = pulls.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let gets = registry.gets("popular", &digest(&layer))?;
    ensure!(gets == 1, "the layer was fetched {gets} times");
    scope.bed.remove_image(&name).await
}

async fn a_pull_again_fetches_no_layer(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    let (layer, diff_id) = layer(&scope, "wanted twice").await?;
    let name = registry.image("again", &layer, &diff_id)?;
    let (first, second) = (scope.bed.pull(&name).await?, scope.bed.pull(&name).await?);
    ensure!(first == second, "{first} and {second}");
    let gets = registry.gets("again", &digest(&layer))?;
    ensure!(gets == 1, "the layer was fetched {gets} times");
    scope.bed.remove_image(&name).await
}

async fn the_list_is_filtered_by_reference(scope: Arc<Scope>) -> Outcome {
    let id = scope.bed.pull(BUSYBOX).await?;
    let found = scope.bed.list_images(BUSYBOX).await?;
    ensure!(found.len() == 1 && found[0].id == id, "{found:?}");
    let found = scope.bed.list_images("registry.k8s.io/not-there:1").await?;
    ensure!(found.is_empty(), "{found:?}");
    let all = scope.bed.list_images("").await?;
    ensure!(all.iter().filter(|image| image.id == id).count() == 1, "listed more than once, or not at all");
    Ok(())
}

async fn the_verbose_status_has_the_images_config(scope: Arc<Scope>) -> Outcome {
    let status = scope.bed.image_status(BUSYBOX).await?;
    let info: serde_json::Value = serde_json::from_str(status.info.get("info").context("no key 'info'")?)?;
    ensure!(info["chainID"].as_str().is_some_and(|id| id.starts_with("sha256:")), "chainID {}", info["chainID"]);
    ensure!(info["imageSpec"]["config"]["Cmd"][0] == "sh", "imageSpec {}", info["imageSpec"]);
    Ok(())
}

async fn a_removed_image_is_gone_with_all_its_tags(scope: Arc<Scope>) -> Outcome {
    let id = scope.bed.pull(&format!("{TAGS}:1")).await?;
    for tag in ["2", "3"] {
        let other = scope.bed.pull(&format!("{TAGS}:{tag}")).await?;
        ensure!(other == id, "tag {tag} is {other}");
    }
    let tags = scope.bed.image_status(&id).await?.image.context("no image")?.repo_tags;
    ensure!(tags.len() == 3, "{tags:?}");
    scope.bed.remove_image(&id).await?;
    ensure!(!scope.bed.list_images("").await?.iter().any(|image| image.id == id), "it is still listed");
    for name in tags.iter().chain([&id]) {
        ensure!(scope.bed.image_status(name).await?.image.is_none(), "{name} is still there");
    }
    let records = scope.bed.ctr(&["images", "list", "--quiet"]).await?;
    ensure!(!records.contains(TAGS) && !records.contains(&id), "containerd still has records of it");
    scope.bed.remove_image(&id).await
}

async fn image_fs_info_names_a_directory_that_exists(scope: Arc<Scope>) -> Outcome {
    // The built-in updates its count of used bytes every 10 s.
    until(Duration::from_secs(30), || async {
        let info = scope.bed.images().image_fs_info(v1::ImageFsInfoRequest {}).await?.into_inner();
        let fs = info.image_filesystems.first().context("no image file system")?;
        let mountpoint = fs.fs_id.as_ref().context("no fs_id")?.mountpoint.clone();
        ensure!(Path::new(&mountpoint).is_dir(), "{mountpoint}");
        ensure!(fs.used_bytes.is_some_and(|used| used.value > 0) && fs.timestamp > 0, "{fs:?}");
        Ok(())
    })
    .await
}

async fn what_ctr_imports_and_removes_is_seen_within_a_second(scope: Arc<Scope>) -> Outcome {
    // The image has a layer of its own: containerd does not fetch a layer that is already unpacked for another image,
    // and cannot export a layer whose blob it does not have.
    let registry = Registry::start(&scope.bed).await?;
    let (layer, diff_id) = layer(&scope, "comes by an archive").await?;
    let name = &registry.image("archived", &layer, &diff_id)?;
    scope.bed.pull(name).await?;
    let tar = scope.dir().join("image.tar").display().to_string();
    scope.bed.ctr(&["images", "export", &tar, name]).await?;
    scope.bed.remove_image(name).await?;
    scope.bed.ctr(&["images", "import", &tar]).await?;
    let second = Duration::from_secs(1);
    let listed = async || -> anyhow::Result<bool> {
        Ok(scope.bed.list_images("").await?.iter().any(|image| image.repo_tags.iter().any(|tag| tag == name)))
    };
    until(second, || async {
        ensure!(listed().await?, "the imported image is not listed");
        Ok(())
    })
    .await?;
    ensure!(scope.bed.image_status(name).await?.image.is_some(), "it has no status");
    let records = scope.bed.ctr(&["images", "list", "--quiet"]).await?;
    let id = scope.bed.image_status(name).await?.image.context("no image")?.id;
    for record in records.lines().filter(|r| r == name || *r == id || r.contains("/archived")) {
        scope.bed.ctr(&["images", "rm", record]).await?;
    }
    until(second, || async {
        ensure!(!listed().await?, "the removed image is still listed");
        Ok(())
    })
    .await
}
