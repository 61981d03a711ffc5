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

variable "BEAM_SDK" {
  # Where the beam image's boot program comes from: the Beam SDK's own image, or a directory with opt/apache/beam/boot in it.
  # Its Python need not be the base's: the program is a static one. Empty: the image is built without.
  default = "docker-image://apache/beam_python3.11_sdk:2.77.0"
}
variable "CUDA_VERSION" {
  # That of images/requirements/cuda.in.
  default = "13.2"
}
variable "CUDA_DRIVER" {
  # The lowest driver that any release of that major version runs on: NVIDIA's table of minor version compatibility.
  default = "580"
}

group "default" {
  targets = ["cpu", "beam", "spark", "cuda"]
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
    "org.opencontainers.image.title"     = "zen-runner"
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
    "org.opencontainers.image.description" = "Runs a pipeline, or one step of it, from its config."
  }
}

target "beam" {
  inherits = ["_image"]
  target   = "beam"
  tags     = ["zen-runner:beam"]
  contexts = BEAM_SDK == "" ? {} : { beam_sdk = BEAM_SDK }
  args     = { BEAM_BOOT = BEAM_SDK == "" ? "absent" : "present" }
  labels = {
    "org.opencontainers.image.description" = "zen-runner with the Apache Beam SDK."
    "org.zen-runner.beam.boot"             = BEAM_SDK == "" ? "absent" : "present"
  }
}

target "spark" {
  inherits = ["_image"]
  target   = "spark"
  tags     = ["zen-runner:spark"]
  labels = {
    "org.opencontainers.image.description" = "zen-runner with Apache Spark and a JRE: driver, executor, master and worker."
  }
}

target "cuda" {
  inherits = ["_image"]
  target   = "cuda"
  tags     = ["zen-runner:cuda"]
  args     = { CUDA_VERSION = CUDA_VERSION }
  labels = {
    "org.opencontainers.image.description" = "zen-runner with CUDA's libraries; the driver is the host's."
    "org.zen-runner.cuda"                  = CUDA_VERSION
    "org.zen-runner.cuda.driver"           = CUDA_DRIVER
  }
}

# Push to REPOSITORY for both architectures, with SBOM and provenance. Needs a builder that can (docker buildx create).
group "release" {
  targets = ["release-cpu", "release-beam", "release-spark", "release-cuda"]
}

target "_release" {
  platforms = ["linux/amd64", "linux/arm64"]
  attest    = ["type=provenance,mode=max", "type=sbom"]
  output    = ["type=image,push=true,rewrite-timestamp=true"]
}

target "release-cpu" {
  inherits = ["cpu", "_release"]
  tags     = ["${REPOSITORY}:cpu", "${REPOSITORY}:cpu-${VERSION}", "${REPOSITORY}:latest"]
}

target "release-beam" {
  inherits = ["beam", "_release"]
  tags     = ["${REPOSITORY}:beam", "${REPOSITORY}:beam-${VERSION}"]
}

target "release-spark" {
  inherits = ["spark", "_release"]
  tags     = ["${REPOSITORY}:spark", "${REPOSITORY}:spark-${VERSION}"]
}

target "release-cuda" {
  inherits = ["cuda", "_release"]
  tags     = ["${REPOSITORY}:cuda", "${REPOSITORY}:cuda-${VERSION}"]
}
