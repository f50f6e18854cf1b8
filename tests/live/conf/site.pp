# The agents of the tests set these facts to make a run slow or to make it fail.
$seconds = $facts['stagedoor_run_seconds']
if $seconds {
  exec { "/bin/sleep ${seconds}": timeout => 0 }
}
case $facts['stagedoor_run_fails'] {
  'compiling': { fail('requested by the test') }
  'applying': { exec { '/bin/false': } }
  default: {}
}
