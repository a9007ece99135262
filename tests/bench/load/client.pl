#!/usr/bin/perl
# Stand-in for sbatch, squeue, scancel and sudo on the hub host. Each run uses as much CPU time as the real program and
# is counted. It is written in Perl, which starts quickly and which every Debian system has.
use strict;
use warnings;
use Socket;

my ($directory, $name) = $0 =~ m{(.*)/(.*)};
my %work = (WORK);    # iterations of the loop below, by program

open(my $log, '>>', "$directory/calls") or die "calls: $!";
syswrite($log, "$name\n");
for (my ($round, $sum) = (0, 0); $round < $work{$name}; $round++) { $sum += $round % 7 }

if ($name eq 'sudo') {
    my $user = '';
    while (@ARGV && $ARGV[0] =~ /^-/) {
        my $option = shift;
        last if $option eq '--';
        $user = shift if $option eq '-u';
    }
    my (undef, undef, $uid, $gid) = getpwnam($user) or die "sudo: unknown user $user\n";
    my $child = fork() // die "fork: $!";
    if (!$child) {
        $) = "$gid $gid";
        $( = $gid;
        ($<, $>) = ($uid, $uid);
        # The gate's own program is installed elsewhere on a real system.
        if ($ARGV[0] =~ m{/job$}) {
            $ARGV[0] = "$directory/job";
            syswrite($log, "job\n");
        }
        exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!";
    }
    waitpid($child, 0);
    exit($? >> 8);
}

my $script = $name eq 'sbatch' ? join('', <STDIN>) : '';
my @environment = map { "$_=$ENV{$_}" } grep { /^JUPYTERHUB_/ } sort keys %ENV;
socket(my $scheduler, PF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
connect($scheduler, pack_sockaddr_un("$directory/scheduler.sock")) or die "$name: error: unable to contact controller\n";
my $request = join("\0", $name, scalar(getpwuid($<)), scalar(@ARGV), @ARGV, scalar(@environment), @environment, $script);
syswrite($scheduler, $request) == length($request) or die "write: $!";
shutdown($scheduler, 1);
my $answer = join('', <$scheduler>);
my $code = substr($answer, 0, 1);
if ($code eq '0') { print substr($answer, 1) }
else { print STDERR substr($answer, 1) }
exit($code);
