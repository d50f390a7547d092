// Package referee puts AWS's own client programs in front of the emulator: where one of them and our code disagree, our code is wrong.
// It builds the session-manager-plugin from AWS's source, and its tests run the plugin and the AWS command line against awsemu and agent.
package referee
