# The images and how they are built. `images/build` calls this with everything filled in; `docker buildx bake` works too.

variable "BASE" {
  # A release passes a digest: BASE=python:3.11-slim-bookworm@sha256:...
  default = "python:3.11-slim-bookworm"
}
variable "REPOSITORY" {
  default = "zen-runner"
}
variable "VERSION" {
  default = ""
}
variable "REVISION" {
  default = ""
}
variable "SOURCE_DATE_EPOCH" {
  # Seconds since 1970: the time that the image, its history and its layers bear. The commit's, in images/build.
  default = "315532800"
}
variable "CA_BUNDLE" {
  # A file of CA certificates (PEM) to trust while building; never part of an image.
  default = ""
}
variable "PIP_CONF" {
  # A pip.conf to use while building, such as one that names a private index; never part of an image.
  default = ""
}

group "default" {
  targets = ["cpu"]
}

# What all images share.
target "_image" {
  context    = "."
  dockerfile = "images/Dockerfile"
  args = {
    BASE              = BASE
    SOURCE_DATE_EPOCH = SOURCE_DATE_EPOCH
  }
  secret = concat(
    CA_BUNDLE == "" ? [] : ["id=ca,src=${CA_BUNDLE}"],
    PIP_CONF == "" ? [] : ["id=pip,src=${PIP_CONF}"],
  )
  labels = {
    "org.opencontainers.image.version"   = VERSION
    "org.opencontainers.image.revision"  = REVISION
    "org.opencontainers.image.created"   = timeadd("1970-01-01T00:00:00Z", "${SOURCE_DATE_EPOCH}s")
    "org.opencontainers.image.licenses"  = "Apache-2.0"
    "org.opencontainers.image.base.name" = BASE
  }
}

target "cpu" {
  inherits = ["_image"]
  target   = "cpu"
  tags     = ["zen-runner:cpu", "zen-runner:latest"]
  labels = {
    "org.opencontainers.image.title"       = "zen-runner"
    "org.opencontainers.image.description" = "Runs a pipeline, or one step of it, from its config."
  }
}

# Pushes to REPOSITORY for both architectures, with SBOM and provenance. Needs a builder that can (docker buildx create).
target "release" {
  inherits  = ["cpu"]
  platforms = ["linux/amd64", "linux/arm64"]
  tags      = ["${REPOSITORY}:cpu", "${REPOSITORY}:cpu-${VERSION}", "${REPOSITORY}:latest"]
  attest    = ["type=provenance,mode=max", "type=sbom"]
  output    = ["type=image,push=true,rewrite-timestamp=true"]
}
