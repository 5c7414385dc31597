"""What the Vagrantfile does to a new disk; Vagrant is a stand-in, qemu-img is real."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RUBY = r"""
module VagrantPlugins; module ProviderLibvirt; end; end
module Vagrant
  def self.plugin(_version)
    Class.new { def self.name(*) = nil; def self.action_hook(*) = nil }
  end
  def self.configure(_version) = nil
end
load ARGV[0]
class Ui
  def warn(text) = puts(text)
end
disks = ARGV[1] == "unnamed" ? nil : ARGV[1..].map { |path| { absolute_path: path } }
NewerDiskFormat.new(->(_env) { puts "made" }, nil).call({ domain_volumes: disks, ui: Ui.new })
"""
WARNING = "The disk keeps its old format, so its file on this host only grows.\n"


def new_disk(*paths: Path | str) -> str:
    """Return what is printed when a domain with these disks is made."""
    words = ["ruby", "-e", RUBY, str(ROOT / "Vagrantfile"), *map(str, paths)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(
    shutil.which("ruby") is None or shutil.which("qemu-img") is None, reason="needs the programs ruby and qemu-img"
)
def test_a_new_disk_gets_the_newer_format_or_a_line_says_that_it_has_not(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", str(disk), "1M"], check=True)
    assert new_disk(disk) == "made\n"
    said = subprocess.run(["qemu-img", "info", str(disk)], capture_output=True, text=True, check=True).stdout
    assert "compat: 1.1" in said

    gone = tmp_path / "gone"
    assert new_disk(gone, gone) == f"{WARNING}made\n"
    assert new_disk("unnamed") == f"{WARNING}made\n", "vagrant-libvirt before 0.9.0"
