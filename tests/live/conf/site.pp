# What agents of the tests ask for, with facts of their own.
$seconds = $facts['stagedoor_run_seconds']
if $seconds {
  exec { "/bin/sleep ${seconds}": timeout => 0 }
}
case $facts['stagedoor_run_fails'] {
  'compiling': { fail('as asked') }
  'applying': { exec { '/bin/false': } }
  default: {}
}
